"""Webhooks: a request that ended is told to the URL its caller named, signed, until that answers or patience ends.

    delivery    the loop: claim, send, record. START READING HERE
    payload     a request and its result → the bytes that are sent
    signature   headers of a signed message; the published keys (JWKS)
    hosts       how much one host gets: slots, rate, and a breaker for one that is dead
    names       look-ups of host names that hang nobody but their own host
    verify      for receivers: is this webhook genuine?

In: the store's outbox rows, which are written in the transaction that ends a request. Out: POSTs through the one
guarded way out (`files.fetch`), and a delivery log that the caller can read.
"""
