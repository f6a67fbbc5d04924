"""Bytes in, URLs out: `blobs` (a local folder, synced), `draft` (bytes on their way), `parts` (of large uploads),
`links` (signed URLs), `images` (pixels ↔ jpeg/png, data URIs, what bytes are), `fetch` (users' URLs).
"""
