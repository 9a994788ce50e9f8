"""`fastft chat` and `fastft serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

_TARGET = click.argument("target", type=click.Path(path_type=Path))


@click.command(short_help="Talk to a run, an adapter, a merged model or a GGUF.")
@_TARGET
@click.option("--system", help="System message.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=512, show_default=True)
@click.option("--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True, help="0 is greedy.")
@click.option("--top-p", type=float, default=1.0, show_default=True, help="Draw from the likeliest that make up this.")
@click.option("--top-k", type=int, default=0, show_default=True, help="Draw from so many tokens; 0 is all.")
@click.option("--min-p", type=float, default=0.0, show_default=True, help="Leave out what is this much less likely.")
@click.option("--repetition-penalty", type=float, default=1.0, show_default=True, help="Above 1 repeats less.")
@click.option("--seed", type=int, help="Draw the same again.")
def chat(target: Path, **options: Any) -> None:
    """Talk to TARGET: a run directory, an adapter, a merged model folder or a GGUF file.

    In the chat: /reset, /system TEXT, /save FILE, /compare, /help, /exit; Ctrl-C breaks an answer off.
    Lines piped in are answered one by one.

    \b
    Examples:
      fastft chat runs/quickstart
      fastft chat runs/quickstart/exports/gguf-q8_0 --temperature 0.7 --top-p 0.9 --seed 1
      echo "Hello" | fastft chat runs/quickstart
    """
    from fastft.chat_terminal import chat as chat_with

    chat_with(target, **options)


@click.command(short_help="Serve a GGUF (or, through vLLM, a merged model) to OpenAI clients.")
@_TARGET
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is every one.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one.")
@click.option("--n-ctx", type=click.IntRange(min=1), help="Tokens of context; the model's own is the default.")
@click.option(
    "--api-key-env",
    metavar="NAME",
    help="Environment variable that holds the key clients must send; FASTFT_API_KEY is read where it is set.",
)
def serve(target: Path, host: str, port: int, n_ctx: int | None, api_key_env: str | None) -> None:
    """Serve TARGET to OpenAI clients until Ctrl-C: a GGUF file, or a run or folder that holds one.

    llama.cpp answers, and has a web page to chat with at the same address. A merged model folder is served by vLLM,
    where that is installed. Only this machine can connect, unless --host says otherwise. Greedy, unless a request
    says otherwise.

    \b
    Examples:
      fastft serve runs/quickstart
      fastft serve runs/quickstart/exports/gguf-q4_k_m --port 9000
      FASTFT_API_KEY=… fastft serve model.gguf --host 0.0.0.0
    """
    from rich.console import Console

    from fastft.serving import serve as serve_it

    console = Console(highlight=False, soft_wrap=True)
    serve_it(target, host=host, port=port, n_ctx=n_ctx, api_key_env=api_key_env, console=console)
