-- Keys take turns: who waits at an endpoint, by key; and how much a key has open.

CREATE INDEX requests_turns ON requests (endpoint, priority, key_id, seq) WHERE status = 'IN_QUEUE';
CREATE INDEX requests_open ON requests (key_id, status) WHERE status <> 'COMPLETED';
