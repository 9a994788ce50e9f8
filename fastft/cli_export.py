"""`fastft export`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Export a run or an adapter: merged weights, GGUF, the Hub.")
@click.argument("target", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "formats",
    multiple=True,
    metavar="NAME",
    help="merged_16bit, merged_4bit, gguf, gguf_lora, adapter or hub; may be repeated.",
)
@click.option(
    "--quantization",
    multiple=True,
    metavar="TYPE",
    help="Type of GGUF: f32, f16, bf16, q8_0, q6_k, q5_k_m, q5_k_s, q5_0, q4_k_m, q4_k_s, q4_0, q3_k_m or q2_k, "
    "or Unsloth's not_quantized, fast_quantized (q8_0) or quantized (q4_k_m); may be repeated.",
)
@click.option("--dtype", metavar="TYPE", help="Type of merged weights: bfloat16 or float16.")
@click.option("--base", metavar="MODEL", help="Base model of an adapter, where it names another than is meant.")
@click.option("--hub-model-id", metavar="OWNER/NAME", help="Repository that --format hub uploads to.")
@click.option("--overwrite", is_flag=True, help="Replace exports that exist.")
@click.option("--no-verify", is_flag=True, help="Leave out the comparison with the trained model.")
def export(
    target: Path,
    formats: tuple[str, ...],
    quantization: tuple[str, ...],
    dtype: str | None,
    base: str | None,
    hub_model_id: str | None,
    overwrite: bool,
    no_verify: bool,
) -> None:
    """Export the run directory RUN, or any LoRA adapter's folder, and verify each export.

    Without options: what the run's recipe says. The exports lie in RUN/exports.

    \b
    Examples:
      fastft export runs/quickstart
      fastft export runs/quickstart --format gguf --quantization q4_k_m --quantization f16
      fastft export my-lora --base Qwen/Qwen2.5-0.5B-Instruct --format merged_16bit
      fastft export runs/quickstart --format merged_16bit --format hub --hub-model-id me/my-model
    """
    from fastft import report
    from fastft.errors import VerificationError
    from fastft.exporting import export as export_it
    from fastft.user_console import user_console

    console = user_console(tireless=True)
    asked = {"dtype": dtype, "base": base, "hub_model_id": hub_model_id, "overwrite": overwrite}
    try:
        export_it(target, formats, quantization, **asked, verify=False if no_verify else None, console=console)
    except VerificationError:
        console.print(report.closing(target.absolute()))
        raise
    console.print(report.closing(target.absolute()))
