"""A side door: OpenAI's Images API over the same endpoints, requests and keys.

door      who asks; errors in OpenAI's shape
names     which endpoint a `model` means
inputs    OpenAI's fields → an endpoint's own input, and what they have no effect on
images    /images/generations, /images/edits: admit, wait or stream, answer
models    /models
answers   outputs and errors in OpenAI's shape

START READING AT `images`. Paths: `/openai/v1/…`; the pictures at `/v1/images/…` too, whose `/v1/models` is fal's.
"""
