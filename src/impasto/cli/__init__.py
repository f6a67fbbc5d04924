"""The command line: `impasto serve · generate · watch · models · requests · keys · webhooks · backup · doctor · exec ·
train`.

One module a command or group of commands, over `group`. Settings are built here, once, and passed down. Nothing heavy
is imported before a command needs it, so that `impasto --help` answers at once.
"""

from impasto.cli import backup, clients, generate, keys, models, requests, serve, train, webhooks
from impasto.cli.group import main

__all__ = ["backup", "clients", "generate", "keys", "main", "models", "requests", "serve", "train", "webhooks"]
