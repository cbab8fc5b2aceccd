"""Streaming to asyncio: the model runs in worker threads, the event loop stays free.

python examples/asyncio_stream.py models/storyteller-fp32
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import ortgpt


async def stream_text(model: ortgpt.Model, prompt: str, **options: int) -> AsyncIterator[str]:
    """Pieces of text as they come; leaving the loop early cancels the generation."""
    stream = model.stream(prompt, ortgpt.Sampling(top_p=0.9), **options)
    try:
        while (event := await asyncio.to_thread(next, stream, None)) is not None:
            yield event.text
    finally:
        stream.close()


async def tell(model: ortgpt.Model, prompt: str) -> str:
    pieces = [piece async for piece in stream_text(model, prompt, max_new_tokens=30, seed=7)]
    return prompt + "".join(pieces)


async def main(bundle: str) -> None:
    with ortgpt.load(bundle) as model:
        for story in await asyncio.gather(tell(model, "The old king"), tell(model, "A little mouse")):
            print(story, end="\n\n")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
