"""The decoder of a bundle: the one place that knows both dialects."""

from __future__ import annotations

from ortgpt.inference.fused_decoder import FusedDecoder
from ortgpt.inference.plan import DEFAULT_CHUNK
from ortgpt.inference.portable_decoder import PortableDecoder
from ortgpt.inference.session import Session
from ortgpt.interfaces import Decoder
from ortgpt.manifest import Manifest


def make_decoder(
    session: Session,
    manifest: Manifest,
    *,
    rows: int = 1,
    chunk: int = DEFAULT_CHUNK,
    wide: Session | None = None,
) -> Decoder:
    """Rows on a session of this bundle's graph.

    chunk  most new tokens that one run of the graph takes; results do not depend on it
    wide   the session of the second graph that a fused bundle may have, for runs of many tokens
    """
    if manifest.portable is not None:
        return PortableDecoder(session, manifest, manifest.portable, rows=rows, chunk=chunk)
    return FusedDecoder(session, manifest, rows=rows, chunk=chunk, wide=wide)
