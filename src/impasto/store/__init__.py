"""The durable truth about requests: records and the status machine, one method a verb.

    base        the verbs, as one protocol       records   what is kept, and the three statuses
    sqlite      the protocol over one SQLite file: reads here, moves handed to the writer
    moves       every transition (T1 to T11), each one function over an open transaction
    writer      the one thread that writes: group commit, then the awaiting tasks hear of it
    outbox      the moves of webhook deliveries      keyring   the keys that sign them
    watch       who waits for which request; the bells of dispatcher and deliverer
    queries     the loader of queries.sql, where every statement has a name and a sentence
    migrate     migrations/NNNN_*.sql, in order, with checksums         secret   pepper and hashes of API keys
    history     what was sent and what ended: lists and counts
    rows        rows ↔ records           positions   how many wait before one, for a deep queue too

In: verbs of `api` and `fleet`. Out: records; a verb that returned is on the disk.
"""
