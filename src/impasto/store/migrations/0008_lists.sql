-- Lists by status, and the whole queue, without walking the history or the rows themselves.

-- No statement has used it since keys take turns.
DROP INDEX requests_queue;
CREATE INDEX requests_waiting ON requests (seq) WHERE status = 'IN_QUEUE';

-- With the status, the queue is read from the index alone.
DROP INDEX requests_turns;
CREATE INDEX requests_turns ON requests (endpoint, priority, key_id, seq, status) WHERE status = 'IN_QUEUE';

CREATE INDEX requests_failed ON requests (seq) WHERE http_status >= 400;
CREATE INDEX requests_failed_of_key ON requests (key_id) WHERE http_status >= 400;
