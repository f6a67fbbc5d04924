"""Who may read a file that is not everybody's.

    a signed link (`?identity=`)    reads, whoever has it, until it is over
    the owner's key                 reads
    any other key                   gets what the ACL says of it: allow, forbid (403) or hide (404)
    no key, a wrong or revoked one  gets the ACL's default, and so does an upload token: it is for uploads only

On an open server any key is the owner's, none is nobody's, and a page from elsewhere is nobody.
"""

import time

from impasto.api.auth import Access, identify
from impasto.api.gateway import Call
from impasto.errors import Forbidden, NotFound, Unauthorized
from impasto.files import links
from impasto.store.records import Decision, FileRecord

MISSING = "File not found"


def is_public(file: FileRecord) -> bool:
    """Whether it is everybody's, so that any cache may keep it."""
    return file.acl is None or file.acl.public


def check(call: Call, file: FileRecord) -> None:
    """Raises `Forbidden` or `NotFound` for those who may not read it."""
    if is_public(file) or _linked(call, file):
        return
    match file.decide(_reader(call)):
        case Decision.ALLOW:
            return
        case Decision.FORBID:
            raise Forbidden("This file is not public: send its owner's key, or ask its owner for a signed link.")
        case Decision.HIDE:
            raise NotFound(MISSING)


def _linked(call: Call, file: FileRecord) -> bool:
    text = call.request.query_params.get(links.PARAMETER)
    return text is not None and links.opens(text, file.token, now=time.time(), secret=call.gateway.secret)


def _reader(call: Call) -> str | None:
    """The key id of a good key. A bad one is nobody's, not an error: a 401 would tell that the file is there."""
    if "authorization" not in call.request.headers:
        return None
    gateway = call.gateway
    try:
        caller = identify(call.request.headers, store=gateway.store, settings=gateway.settings, access=Access.REST)
    except (Unauthorized, Forbidden):
        return None
    return None if caller is None else caller.key_id
