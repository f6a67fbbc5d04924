"""Bytes in, URLs out: `blobs` (a local folder, synced), `images` (pixels ↔ jpeg/png, data URIs, what bytes are)."""
