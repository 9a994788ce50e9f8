"""The code that jinja compiles a chat template into: it counts a step in every block, and looks at sizes where jinja
has no hook. `sandbox.LimitedEnvironment` has the functions that it calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, operators

from fastft.data.template_sizes import bytes_of


class CountingCode(CodeGenerator):
    """jinja's compiler, with a step counted in every block of code, and sizes looked at where jinja has no hook."""

    def blockvisit(self, nodes: Iterable[nodes.Node], frame: Any) -> None:
        self.writeline("environment.tick()")
        super().blockvisit(nodes, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Any) -> None:  # noqa: N802
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_Compare(self, node: nodes.Compare, frame: Any) -> None:  # noqa: N802
        self.write("(")
        self._comparable(node.expr, frame)
        for operand in node.ops:
            self.visit(operand, frame)
        self.write(")")

    def visit_Operand(self, node: nodes.Operand, frame: Any) -> None:  # noqa: N802
        self.write(f" {operators[node.op]} ")
        self._comparable(node.expr, frame)

    def visit_Getitem(self, node: nodes.Getitem, frame: Any) -> None:  # noqa: N802
        self._kept(super().visit_Getitem, node, frame, isinstance(node.arg, nodes.Slice))

    def visit_List(self, node: nodes.List, frame: Any) -> None:  # noqa: N802
        self._kept(super().visit_List, node, frame, not _few_constants(node.items))

    def visit_Tuple(self, node: nodes.Tuple, frame: Any) -> None:  # noqa: N802
        self._kept(super().visit_Tuple, node, frame, node.ctx == "load" and not _few_constants(node.items))

    def visit_Dict(self, node: nodes.Dict, frame: Any) -> None:  # noqa: N802
        self.write("environment.keyed((")
        for pair in node.items:
            self.write("(")
            self.visit(pair.key, frame)
            self.write(", ")
            self.visit(pair.value, frame)
            self.write("), ")
        self.write("))")

    def visit_Const(self, node: nodes.Const, frame: Any) -> None:  # noqa: N802
        bytes_of(node.value)  # 0x… may have a million digits
        super().visit_Const(node, frame)

    def _comparable(self, node: nodes.Expr, frame: Any) -> None:
        self.write("(" if isinstance(node, nodes.Const) else "environment.comparable(")
        self.visit(node, frame)
        self.write(")")

    def _kept(self, visit: Callable[..., Any], node: nodes.Node, frame: Any, counted: bool) -> None:
        self.write("environment.kept(" if counted else "(")
        visit(node, frame)
        self.write(")")


def _few_constants(items: list[nodes.Expr]) -> bool:
    return len(items) <= 8 and all(isinstance(item, nodes.Const) for item in items)
