-- Every statement of the SQLite store: a name, a sentence, the statement. `queries.py` loads it; Python holds no SQL.

-- part: request
-- The columns of a request but for its input, which may hold megabytes.
seq, request_id, endpoint, key_id, priority, status, outcome, http_status, error, error_type, seed, base_url, webhook_url,
no_retry, store_io, attempt, crash_count, max_attempts, lease, runner_id, cancel_requested, created_at, started_at,
finished_at, inference_time

-- ------------------------------------------------------------------------------------------------ connections

-- name: writer_settings
-- Durable commits (fsync of the log at each), readers that never wait, enforced references, erased rows overwritten.
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA foreign_keys = ON;
PRAGMA secure_delete = ON;
PRAGMA journal_size_limit = 67108864;

-- name: reader_settings
-- A connection that cannot change anything.
PRAGMA query_only = ON;

-- name: begin
-- Take the write lock at once, so that a batch never fails half-way for want of it.
BEGIN IMMEDIATE;

-- name: commit
-- Make a batch durable.
COMMIT;

-- name: rollback
-- Forget a batch.
ROLLBACK;

-- name: savepoint
-- Fence one operation of a batch from its neighbours.
SAVEPOINT operation;

-- name: release
-- Keep an operation's work within the batch.
RELEASE operation;

-- name: rollback_operation
-- Undo one operation and leave its neighbours alone.
ROLLBACK TO operation;

-- name: erase
-- Move the log into the file and empty it: what was erased from the file must not live on in the log.
PRAGMA wal_checkpoint(TRUNCATE);

-- name: erase_patience
-- Do not hold up the writes for a reader of another process.
PRAGMA busy_timeout = 100;

-- name: write_patience
-- How long to wait for another process's write, in milliseconds.
PRAGMA busy_timeout = 10000;

-- ------------------------------------------------------------------------------------------------ schema

-- name: schema_version_create
-- The table that tells which migrations this file has seen.
CREATE TABLE IF NOT EXISTS schema_version (
  version INTEGER PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, applied_at REAL NOT NULL
) STRICT;

-- name: schema_version_list
-- The applied migrations, in order.
SELECT version, name, checksum FROM schema_version ORDER BY version;

-- name: schema_version_add
-- Note a migration, in the transaction that applied it.
INSERT INTO schema_version (version, name, checksum, applied_at) VALUES (:version, :name, :checksum, :now);

-- ------------------------------------------------------------------------------------------------ requests: moves

-- name: request_insert
-- T1: a new request enters the queue. Its input is not read back: it may hold megabytes.
INSERT INTO requests (
  request_id, endpoint, key_id, priority, seed, base_url, webhook_url, no_retry, store_io, idempotency_key,
  idempotency_hash, max_attempts, boot, start_deadline, created_at, input, lifecycle, reading, not_before
) VALUES (
  :request_id, :endpoint, :key_id, :priority, :seed, :base_url, :webhook_url, :no_retry, :store_io, :idempotency_key,
  :idempotency_hash, :max_attempts, :boot, :start_deadline, :now, :input, :lifecycle, :reading, :not_before
) RETURNING
  {request}, NULL AS input;

-- name: input_insert
-- What is known of a new request's input without reading it.
INSERT INTO input_index (seq, key_id, prompt, bytes, brief) VALUES (:seq, :key_id, :prompt, :bytes, :brief);

-- name: input_end
-- The request has ended: what its input takes now.
UPDATE input_index SET ended = 1,
  brief = CASE WHEN :whole THEN brief END,
  bytes = CASE WHEN :bytes IS NOT NULL THEN :bytes WHEN :whole OR brief IS NULL THEN bytes ELSE length(brief) END
WHERE seq = :seq;

-- name: input_erase
-- The input is gone, and with it what was known of it.
UPDATE input_index SET prompt = NULL, brief = NULL, bytes = 2
WHERE seq = (SELECT seq FROM requests WHERE request_id = :request_id);

-- name: input_total
-- Bytes of the stored inputs of one key, or of all.
SELECT bytes FROM input_totals WHERE scope = :scope;

-- name: input_large_of_key
-- Large inputs of a key's ended requests, the oldest first, and what replacing each frees.
SELECT seq, bytes - length(brief) AS freed FROM input_index INDEXED BY input_large_of_key
WHERE ended = 1 AND brief IS NOT NULL AND key_id = :key_id ORDER BY seq LIMIT :limit;

-- name: input_large
-- The same of all keys.
SELECT seq, bytes - length(brief) AS freed FROM input_index INDEXED BY input_large
WHERE ended = 1 AND brief IS NOT NULL AND seq > 0 ORDER BY seq LIMIT :limit;

-- name: input_shorten
-- Replace a large input of an ended request by its brief form.
UPDATE requests SET input = (SELECT brief FROM input_index WHERE input_index.seq = requests.seq)
WHERE seq = :seq AND status = 'COMPLETED';

-- name: input_shortened
-- Note that it was.
UPDATE input_index SET bytes = length(brief), brief = NULL WHERE seq = :seq AND brief IS NOT NULL;

-- name: input_facts
-- What is known of the inputs of several requests.
SELECT seq, prompt, bytes FROM input_index WHERE seq IN (SELECT value FROM json_each(:seqs));

-- name: request_by_idempotency
-- The request that already answers to this key of this caller, without its input.
SELECT
  {request},
  idempotency_hash, NULL AS input
FROM requests WHERE key_id = :key_id AND idempotency_key = :idempotency_key;

-- name: request_forget_idempotency
-- Free an idempotency key whose day is over.
UPDATE requests SET idempotency_key = NULL WHERE request_id = :request_id;

-- name: queue_lines
-- Where each line (endpoint, priority, key) begins, back-off or not; read at the start and after another process's write.
SELECT endpoint, priority, key_id, min(seq) AS seq FROM requests INDEXED BY requests_turns
WHERE status = 'IN_QUEUE' GROUP BY endpoint, priority, key_id;

-- name: queue_backoffs
-- The waiting requests whose back-off is not over.
SELECT endpoint, priority, key_id, seq, not_before FROM requests INDEXED BY requests_backoff
WHERE status = 'IN_QUEUE' AND not_before > 0 AND not_before > :monotonic AND reading = 0;

-- name: queue_head
-- The first request of a line from a place on; back-off and missed deadlines are skipped.
SELECT min(seq) AS seq FROM requests INDEXED BY requests_turns
WHERE status = 'IN_QUEUE' AND endpoint = :endpoint AND priority = :priority AND key_id = :key_id AND seq >= :seq
  AND not_before <= :monotonic AND (start_deadline IS NULL OR start_deadline > :now);

-- name: running_by_key
-- How many requests of each key run.
SELECT key_id, count(*) AS running FROM requests INDEXED BY requests_lease WHERE status = 'IN_PROGRESS' GROUP BY key_id;

-- name: queued_of_key
-- How many requests of a key wait, counted up to a limit.
SELECT count(*) AS count FROM (
  SELECT 1 FROM requests WHERE status <> 'COMPLETED' AND status = 'IN_QUEUE' AND key_id = :key_id LIMIT :limit
);

-- name: queued_past
-- Whether more than so many requests of an endpoint wait; no more of them are looked at.
SELECT 1 FROM requests WHERE status = 'IN_QUEUE' AND endpoint = :endpoint LIMIT 1 OFFSET :length;

-- name: open_of_key
-- How many requests of a key wait or run, counted up to a limit.
SELECT count(*) AS count FROM (SELECT 1 FROM requests WHERE status <> 'COMPLETED' AND key_id = :key_id LIMIT :limit);

-- name: request_claim
-- T2: a queued request goes to a runner under a fresh lease; one that lost a runner only where it is alone.
UPDATE requests SET status = 'IN_PROGRESS', lease = :lease, lease_until = :lease_until, boot = :boot, not_before = 0,
  runner_id = :runner_id, attempt = attempt + 1, started_at = :now
WHERE seq = :seq AND status = 'IN_QUEUE' AND (crash_count = 0 OR :alone) RETURNING *;

-- name: request_passed_for
-- A waiting request that others have passed since a time or longer.
SELECT 1 FROM requests WHERE seq = :seq AND not_before <= :since;

-- name: request_renew
-- T3: the holder of the lease is alive. The status is left out of the WHERE, so that only the id's index fits.
UPDATE requests SET lease_until = :lease_until, boot = :boot WHERE request_id = :request_id AND lease = :lease
RETURNING cancel_requested;

-- name: request_held
-- The request, if this lease still holds it, without its input.
SELECT
  {request}, log_lines, log_bytes, log_full, lifecycle
FROM requests WHERE request_id = :request_id AND lease = :lease;

-- name: request_complete
-- T4, T6, T7, T9: the one way into COMPLETED; the input is replaced, kept, made brief when it is large and nothing was
-- drawn of it, or erased when its caller asked for that.
-- It is not read back: it may hold megabytes.
UPDATE requests SET status = 'COMPLETED', outcome = :outcome, http_status = :http_status, error = :error,
  error_type = :error_type, inference_time = :inference_time, pictures = :pictures, finished_at = :now,
  expires_at = :expires_at,
  crash_count = :crash_count, lease = NULL, lease_until = NULL, not_before = 0,
  input = CASE WHEN NOT store_io THEN '{}' WHEN :input IS NOT NULL THEN :input WHEN :outcome = 'OK' THEN input
    ELSE coalesce((SELECT brief FROM input_index WHERE input_index.seq = requests.seq), input) END
WHERE request_id = :request_id AND status <> 'COMPLETED'
RETURNING
  {request}, NULL AS input;

-- name: result_insert
-- The one stored answer, with the lease of the attempt that won.
INSERT INTO results (request_id, lease, http_status, headers, payload)
VALUES (:request_id, :lease, :http_status, :headers, :payload);

-- name: result_by_lease
-- Whether the stored result is the one that this lease wrote (T4': a runner that asks again hears yes).
SELECT 1 FROM results WHERE request_id = :request_id AND lease = :lease;

-- name: request_requeue
-- T5, T10: back to the queue, at its old place, not before its back-off is over. The input is not read back.
UPDATE requests SET status = 'IN_QUEUE', lease = NULL, lease_until = NULL, runner_id = NULL, boot = :boot,
  not_before = :not_before, attempt = :attempt, crash_count = :crash_count
WHERE request_id = :request_id AND status = 'IN_PROGRESS'
RETURNING
  {request}, NULL AS input;

-- name: request_defer
-- A claimed request goes back to the queue, at its old place, until its files are read: that was no attempt.
UPDATE requests SET status = 'IN_QUEUE', lease = NULL, lease_until = NULL, runner_id = NULL, boot = :boot,
  not_before = :not_before, reading = 1, attempt = attempt - 1,
  started_at = CASE WHEN attempt > 1 THEN started_at END
WHERE request_id = :request_id AND lease = :lease RETURNING request_id;

-- name: request_is_read
-- The files of a waiting request are read: it may be claimed.
UPDATE requests SET reading = 0, not_before = 0, boot = :boot
WHERE request_id = :request_id AND status = 'IN_QUEUE' AND reading = 1
RETURNING endpoint, priority, key_id, seq;

-- name: reading_after
-- The next lane (key, endpoint) in which requests wait for their files, after a given lane: one look into the index.
SELECT key_id, endpoint FROM requests
WHERE reading = 1 AND status = 'IN_QUEUE' AND (key_id, endpoint) > (:key_id, :endpoint)
ORDER BY key_id, endpoint LIMIT 1;

-- name: reading_of
-- The first requests of a lane that wait for their files, in the order in which they are claimed later.
SELECT request_id, priority FROM requests
WHERE reading = 1 AND status = 'IN_QUEUE' AND key_id = :key_id AND endpoint = :endpoint
ORDER BY priority, seq LIMIT :limit;

-- name: reading_input
-- A request that waits for its files, with its input.
SELECT * FROM requests WHERE request_id = :request_id AND status = 'IN_QUEUE' AND reading = 1;

-- name: request_ask_cancel
-- T8: tell the runner, at its next beat, that nobody wants this any more.
UPDATE requests SET cancel_requested = 1 WHERE request_id = :request_id AND status = 'IN_PROGRESS';

-- name: log_insert
-- One log line of an attempt.
INSERT INTO logs (request_id, n, attempt, timestamp, message, level, source, labels)
VALUES (:request_id, :n, :attempt, :timestamp, :message, :level, :source, :labels);

-- name: request_count_logs
-- Keep the running totals that the log cap is measured by.
UPDATE requests SET log_lines = :log_lines, log_bytes = :log_bytes, log_full = :log_full WHERE request_id = :request_id;

-- ------------------------------------------------------------------------------------------------ requests: sweeping

-- name: sweep_adopt_leases
-- Leases granted by a former process: its clock means nothing here, so each gets one full term from now.
UPDATE requests SET boot = :boot, lease_until = :lease_until WHERE status = 'IN_PROGRESS' AND boot <> :boot;

-- name: sweep_extend_leases
-- This process stood still for a while (stopped, its machine paused): nobody could renew a lease.
UPDATE requests SET lease_until = lease_until + :seconds WHERE status = 'IN_PROGRESS' AND boot = :boot;

-- name: sweep_adopt_backoff
-- Back-offs granted by a former process end now. What waits for its files goes on waiting for them.
UPDATE requests INDEXED BY requests_backoff SET boot = :boot,
  not_before = CASE WHEN reading THEN not_before ELSE 0 END
WHERE status = 'IN_QUEUE' AND not_before > 0 AND boot <> :boot;

-- name: sweep_leases
-- Work whose runner has been silent for too long, without its inputs.
SELECT
  {request}, log_lines, log_bytes, log_full
FROM requests WHERE status = 'IN_PROGRESS' AND lease_until <= :monotonic ORDER BY lease_until LIMIT :limit;

-- name: sweep_deadlines
-- Queued requests whose caller no longer waits for the start, without their inputs.
SELECT
  {request}, log_lines, log_bytes, log_full
FROM requests
WHERE status = 'IN_QUEUE' AND start_deadline IS NOT NULL AND start_deadline <= :now ORDER BY start_deadline LIMIT :limit;

-- name: sweep_request
-- T11: forget a request past its retention; result, logs and outbox go with it.
DELETE FROM requests WHERE seq = (SELECT seq FROM requests WHERE expires_at <= :now ORDER BY expires_at LIMIT 1)
RETURNING request_id;

-- name: sweep_files
-- Stop serving files past their retention; their rows stay until their bytes are gone.
UPDATE files SET deleting = 1
WHERE token IN (SELECT token FROM files WHERE deleting = 0 AND expires_at <= :now ORDER BY expires_at LIMIT :limit);

-- name: requests_running
-- What the former process left in progress, without the inputs.
SELECT
  {request}, log_lines, log_bytes, log_full
FROM requests WHERE status = 'IN_PROGRESS' ORDER BY lease_until;

-- ------------------------------------------------------------------------------------------------ requests: reads

-- name: request_get
-- One request, without its input: polls ask for it ten times a second, and an input may hold megabytes of data URIs.
SELECT
  {request}, NULL AS input
FROM requests WHERE request_id = :request_id;

-- name: request_input
-- The input of a request.
SELECT input FROM requests WHERE request_id = :request_id;

-- name: result_get
-- The stored answer of a request.
SELECT http_status, headers, payload FROM results WHERE request_id = :request_id;

-- name: logs_after
-- The log lines of a request after the first `after` ones.
SELECT timestamp, message, level, source, labels FROM logs WHERE request_id = :request_id AND n > :after ORDER BY n;

-- name: request_place
-- Where a queued request stands.
SELECT key_id, priority, seq FROM requests WHERE request_id = :request_id AND status = 'IN_QUEUE';

-- name: queue_whole
-- All that waits, or the first `limit` of it.
SELECT key_id, priority, seq FROM requests INDEXED BY requests_turns WHERE status = 'IN_QUEUE' LIMIT :limit;

-- name: file_version
-- Another number after each commit of another connection.
PRAGMA data_version;

-- name: queue_count
-- How many requests of one endpoint wait.
SELECT count(*) FROM requests WHERE status = 'IN_QUEUE' AND endpoint = :endpoint;

-- name: queue_counts
-- How many requests wait at each endpoint.
SELECT endpoint, count(*) AS waiting FROM requests INDEXED BY requests_turns WHERE status = 'IN_QUEUE' GROUP BY endpoint;

-- name: queue_count_all
-- How many requests wait.
SELECT count(*) FROM requests WHERE status = 'IN_QUEUE';

-- name: request_whole
-- One request with what its log is counted by, without its input.
SELECT
  {request}, log_lines, log_bytes, log_full
FROM requests WHERE request_id = :request_id;

-- ------------------------------------------------------------------------------------------------ webhooks

-- name: delivery_insert
-- The outbox row of a webhook; due at once.
INSERT INTO webhook_deliveries (delivery_id, request_id, key_id, url, host, next_at, created_at)
VALUES (:delivery_id, :request_id, :key_id, :url, :host, :now, :now);

-- name: delivery_lanes
-- When the next delivery of each key to each host is due: two looks into the index a lane, however many wait in it.
WITH RECURSIVE waiting (key_id) AS (
  SELECT min(key_id) FROM webhook_deliveries WHERE state = 'DUE'
  UNION ALL
  SELECT (SELECT min(key_id) FROM webhook_deliveries WHERE state = 'DUE' AND key_id > waiting.key_id)
  FROM waiting WHERE waiting.key_id IS NOT NULL
),
lanes (key_id, host) AS (
  SELECT key_id, (
    SELECT min(host) FROM webhook_deliveries AS due WHERE due.state = 'DUE' AND due.key_id = waiting.key_id
  ) FROM waiting WHERE key_id IS NOT NULL
  UNION ALL
  SELECT key_id, (
    SELECT min(host) FROM webhook_deliveries AS due
    WHERE due.state = 'DUE' AND due.key_id = lanes.key_id AND due.host > lanes.host
  ) FROM lanes WHERE lanes.host IS NOT NULL
)
SELECT lanes.key_id, lanes.host, (
  SELECT min(due.next_at) FROM webhook_deliveries AS due
  WHERE due.state = 'DUE' AND due.key_id = lanes.key_id AND due.host = lanes.host
) AS next_at
FROM lanes WHERE lanes.host IS NOT NULL;

-- name: delivery_due
-- What one key has due for one host, the longest waiting first.
SELECT delivery_id, claim, attempt FROM webhook_deliveries
WHERE state = 'DUE' AND key_id = :key_id AND host = :host AND next_at <= :now ORDER BY next_at LIMIT :limit;

-- name: delivery_claim
-- A due delivery goes to a deliverer; when the claim lapses it is due again.
UPDATE webhook_deliveries SET claim = :claim, claimed_until = :until, next_at = :until, attempt = attempt + 1,
  tries = tries + 1
WHERE delivery_id = :delivery_id AND state = 'DUE' RETURNING *;

-- name: delivery_settle
-- What an attempt came to, if its claim still holds.
UPDATE webhook_deliveries SET state = :state, next_at = :next_at, claim = NULL, claimed_until = NULL
WHERE delivery_id = :delivery_id AND claim = :claim;

-- name: delivery_again
-- A new series of tries, from now on; the attempt under way, if there is one, no longer decides.
UPDATE webhook_deliveries SET state = 'DUE', next_at = :now, tries = 0, claim = NULL, claimed_until = NULL
WHERE request_id = :request_id;

-- name: delivery_release
-- What a former process had claimed is due now.
UPDATE webhook_deliveries SET next_at = :now, claimed_until = NULL WHERE claimed_until IS NOT NULL;

-- name: delivery_get
-- The delivery of a request.
SELECT * FROM webhook_deliveries WHERE request_id = :request_id;

-- name: deliveries_newest
-- Deliveries, those of the latest ends first, each with the last line of its log.
SELECT delivery.rowid AS seq, delivery.*, request.endpoint, last.number AS last_number, last.at AS last_at, last.http_status AS last_http_status,
  last.error AS last_error, last.seconds AS last_seconds
FROM webhook_deliveries AS delivery JOIN requests AS request USING (request_id)
LEFT JOIN webhook_attempts AS last ON last.delivery_id = delivery.delivery_id AND last.number = (
  SELECT max(number) FROM webhook_attempts AS line WHERE line.delivery_id = delivery.delivery_id
)
WHERE delivery.rowid > 0 AND (:before IS NULL OR delivery.rowid < :before)
  AND (:state IS NULL OR delivery.state = :state) AND (:key_id IS NULL OR request.key_id = :key_id)
ORDER BY delivery.rowid DESC LIMIT :limit;

-- name: attempt_insert
-- One line of a delivery's log; who was there knows better than who only found the claim lapsed.
INSERT INTO webhook_attempts (delivery_id, number, at, http_status, error, seconds)
SELECT delivery_id, :number, :at, :http_status, :error, :seconds FROM webhook_deliveries WHERE delivery_id = :delivery_id
ON CONFLICT (delivery_id, number) DO UPDATE SET at = excluded.at, http_status = excluded.http_status,
  error = excluded.error, seconds = excluded.seconds;

-- name: attempts_trim
-- Forget the oldest lines of a long log.
DELETE FROM webhook_attempts WHERE delivery_id = :delivery_id AND number <= :number;

-- name: attempt_list
-- The log of a delivery.
SELECT * FROM webhook_attempts WHERE delivery_id = :delivery_id ORDER BY number;

-- name: signing_key_insert
-- A new key of the webhooks, its private part sealed.
INSERT INTO signing_keys (kid, sealed, public, created_at, active_from)
VALUES (:kid, :sealed, :public, :created_at, :active_from);

-- name: signing_key_list
-- The published keys, in the order in which they sign.
SELECT * FROM signing_keys WHERE retire_at IS NULL OR retire_at > :now ORDER BY active_from, created_at;

-- name: signing_key_count
-- How many signing keys there are.
SELECT count(*) FROM signing_keys;

-- name: signing_keys_retire
-- A younger key comes: the others are published no longer than needed.
UPDATE signing_keys SET retire_at = :retire_at WHERE retire_at IS NULL OR retire_at > :retire_at;

-- name: signing_keys_forget
-- Forget the keys that are published no more.
DELETE FROM signing_keys WHERE retire_at <= :now;

-- ------------------------------------------------------------------------------------------------ looking back

-- name: requests_newest
-- The newest requests of all keys, of all endpoints or of several.
SELECT
  {request}, NULL AS input
FROM requests
WHERE seq > 0 AND (:before IS NULL OR seq < :before)
  AND (:endpoints IS NULL OR endpoint IN (SELECT value FROM json_each(:endpoints)))
  AND (:status IS NULL OR status = :status) AND (:lowest IS NULL OR http_status BETWEEN :lowest AND :highest)
  AND (:since IS NULL OR created_at >= :since) AND (:until IS NULL OR created_at < :until)
ORDER BY seq DESC LIMIT :limit;

-- name: requests_newest_of_key
-- The newest requests of one key, of all endpoints or of several.
SELECT
  {request}, NULL AS input
FROM requests
WHERE key_id = :key_id AND (:before IS NULL OR seq < :before)
  AND (:endpoints IS NULL OR endpoint IN (SELECT value FROM json_each(:endpoints)))
  AND (:status IS NULL OR status = :status) AND (:lowest IS NULL OR http_status BETWEEN :lowest AND :highest)
  AND (:since IS NULL OR created_at >= :since) AND (:until IS NULL OR created_at < :until)
ORDER BY seq DESC LIMIT :limit;

-- name: requests_newest_of_endpoint
-- The newest requests of one endpoint, of all keys.
SELECT
  {request}, NULL AS input
FROM requests
WHERE endpoint = :endpoint AND (:before IS NULL OR seq < :before)
  AND (:status IS NULL OR status = :status) AND (:lowest IS NULL OR http_status BETWEEN :lowest AND :highest)
  AND (:since IS NULL OR created_at >= :since) AND (:until IS NULL OR created_at < :until)
ORDER BY seq DESC LIMIT :limit;

-- name: requests_newest_waiting
-- The newest waiting requests of all keys.
SELECT
  {request}, NULL AS input
FROM requests INDEXED BY requests_waiting
WHERE status = 'IN_QUEUE' AND seq > 0 AND (:before IS NULL OR seq < :before)
  AND (:endpoints IS NULL OR endpoint IN (SELECT value FROM json_each(:endpoints)))
  AND (:endpoint IS NULL OR endpoint = :endpoint)
  AND (:lowest IS NULL OR http_status BETWEEN :lowest AND :highest)
  AND (:since IS NULL OR created_at >= :since) AND (:until IS NULL OR created_at < :until)
ORDER BY seq DESC LIMIT :limit;

-- name: requests_newest_running
-- The newest running requests of all keys.
SELECT
  {request}, NULL AS input
FROM requests INDEXED BY requests_lease
WHERE status = 'IN_PROGRESS' AND lease_until IS NOT NULL AND (:before IS NULL OR seq < :before)
  AND (:endpoints IS NULL OR endpoint IN (SELECT value FROM json_each(:endpoints)))
  AND (:endpoint IS NULL OR endpoint = :endpoint)
  AND (:lowest IS NULL OR http_status BETWEEN :lowest AND :highest)
  AND (:since IS NULL OR created_at >= :since) AND (:until IS NULL OR created_at < :until)
ORDER BY seq DESC LIMIT :limit;

-- name: requests_newest_failed
-- The newest failed requests of all keys.
SELECT
  {request}, NULL AS input
FROM requests INDEXED BY requests_failed
WHERE http_status >= 400 AND seq > 0 AND (:before IS NULL OR seq < :before)
  AND (:endpoints IS NULL OR endpoint IN (SELECT value FROM json_each(:endpoints)))
  AND (:endpoint IS NULL OR endpoint = :endpoint)
  AND (:lowest IS NULL OR http_status BETWEEN :lowest AND :highest)
  AND (:since IS NULL OR created_at >= :since) AND (:until IS NULL OR created_at < :until)
ORDER BY seq DESC LIMIT :limit;

-- name: requests_newest_open_of_key
-- The newest waiting, or the newest running, requests of one key.
SELECT
  {request}, NULL AS input
FROM requests INDEXED BY requests_open
WHERE key_id = :key_id AND status = :status AND status <> 'COMPLETED' AND (:before IS NULL OR seq < :before)
  AND (:endpoints IS NULL OR endpoint IN (SELECT value FROM json_each(:endpoints)))
  AND (:endpoint IS NULL OR endpoint = :endpoint)
  AND (:lowest IS NULL OR http_status BETWEEN :lowest AND :highest)
  AND (:since IS NULL OR created_at >= :since) AND (:until IS NULL OR created_at < :until)
ORDER BY seq DESC LIMIT :limit;

-- name: requests_newest_failed_of_key
-- The newest failed requests of one key.
SELECT
  {request}, NULL AS input
FROM requests INDEXED BY requests_failed_of_key
WHERE key_id = :key_id AND http_status >= 400 AND (:before IS NULL OR seq < :before)
  AND (:endpoints IS NULL OR endpoint IN (SELECT value FROM json_each(:endpoints)))
  AND (:endpoint IS NULL OR endpoint = :endpoint)
  AND (:lowest IS NULL OR http_status BETWEEN :lowest AND :highest)
  AND (:since IS NULL OR created_at >= :since) AND (:until IS NULL OR created_at < :until)
ORDER BY seq DESC LIMIT :limit;

-- name: requests_newest_of_both
-- The newest requests of one endpoint and key.
SELECT
  {request}, NULL AS input
FROM requests
WHERE endpoint = :endpoint AND key_id = :key_id AND (:before IS NULL OR seq < :before)
  AND (:status IS NULL OR status = :status) AND (:lowest IS NULL OR http_status BETWEEN :lowest AND :highest)
  AND (:since IS NULL OR created_at >= :since) AND (:until IS NULL OR created_at < :until)
ORDER BY seq DESC LIMIT :limit;

-- name: usage_counts
-- What ended in a time, by bucket (a function of the caller's connection), endpoint and key.
SELECT bucket(finished_at) AS bucket, endpoint, key_id, count(*) AS requests,
  count(*) FILTER (WHERE http_status < 400) AS successes,
  count(*) FILTER (WHERE http_status BETWEEN 400 AND 499) AS user_errors,
  count(*) FILTER (WHERE http_status >= 500) AS errors,
  sum(pictures) AS pictures, total(inference_time) AS inference_seconds
FROM requests INDEXED BY requests_ended
WHERE finished_at >= :since AND finished_at < :until AND (:key_id IS NULL OR key_id = :key_id)
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;

-- name: usage_durations
-- How long the successful ones waited and ran, as nearest-rank percentiles by bucket and endpoint; :whole: by bucket.
SELECT bucket, endpoint,
  min(waited) FILTER (WHERE wait_rank >= 0.50 * n) AS wait_50, min(waited) FILTER (WHERE wait_rank >= 0.75 * n) AS wait_75,
  min(waited) FILTER (WHERE wait_rank >= 0.90 * n) AS wait_90, min(ran) FILTER (WHERE run_rank >= 0.50 * n) AS run_50,
  min(ran) FILTER (WHERE run_rank >= 0.75 * n) AS run_75, min(ran) FILTER (WHERE run_rank >= 0.90 * n) AS run_90
FROM (
  SELECT bucket, endpoint, waited, ran, count(*) OVER (PARTITION BY bucket, endpoint) AS n,
    row_number() OVER (PARTITION BY bucket, endpoint ORDER BY waited) AS wait_rank,
    row_number() OVER (PARTITION BY bucket, endpoint ORDER BY ran) AS run_rank
  FROM (
    SELECT bucket(finished_at) AS bucket, CASE WHEN :whole THEN '' ELSE endpoint END AS endpoint,
      started_at - created_at AS waited, finished_at - started_at AS ran
    FROM requests INDEXED BY requests_ended
    WHERE finished_at >= :since AND finished_at < :until AND (:key_id IS NULL OR key_id = :key_id)
      AND http_status < 400 AND started_at IS NOT NULL
  )
)
GROUP BY bucket, endpoint;

-- name: payloads_erase_input
-- The input of an ended request, gone.
UPDATE requests SET input = '{}' WHERE request_id = :request_id AND status = 'COMPLETED';

-- name: payloads_erase_result
-- The stored answer of a request, gone.
DELETE FROM results WHERE request_id = :request_id;

-- name: payloads_retire_files
-- Stop serving the files that a request produced; their rows stay until their bytes are gone.
UPDATE files SET deleting = 1 WHERE request_id = :request_id AND deleting = 0 RETURNING token;

-- ------------------------------------------------------------------------------------------------ files

-- name: file_insert
-- A file that is served from now on; a token that is known stays as it is.
INSERT INTO files (token, media_type, size, file_name, request_id, key_id, created_at, expires_at, acl)
VALUES (:token, :media_type, :size, :file_name, :request_id, :key_id, :created_at, :expires_at, :acl)
ON CONFLICT (token) DO NOTHING;

-- name: file_get
-- A file that is still served.
SELECT * FROM files WHERE token = :token AND deleting = 0 AND (expires_at IS NULL OR expires_at > :now);

-- name: file_set_acl
-- Say anew who may read a file.
UPDATE files SET acl = :acl WHERE token = :token AND deleting = 0;

-- name: file_withdraw
-- Stop serving one file; its row stays until its bytes are gone.
UPDATE files SET deleting = 1 WHERE token = :token AND deleting = 0;

-- name: uploads_size
-- How many bytes of uploads a key has in service.
SELECT coalesce(sum(size), 0) FROM files
WHERE key_id = :key_id AND request_id IS NULL AND deleting = 0 AND (expires_at IS NULL OR expires_at > :now);

-- name: uploads_count
-- How many uploads a key has in service.
SELECT count(*) FROM files
WHERE key_id = :key_id AND request_id IS NULL AND deleting = 0 AND (expires_at IS NULL OR expires_at > :now);

-- name: files_known
-- Which of many tokens have a row; :tokens: a JSON list.
SELECT token FROM files WHERE token IN (SELECT value FROM json_each(:tokens));

-- name: files_deleting
-- Files whose bytes are to be deleted.
SELECT * FROM files WHERE deleting = 1 ORDER BY token LIMIT :limit;

-- name: file_delete
-- Forget a file whose bytes are gone.
DELETE FROM files WHERE token = :token AND deleting = 1;

-- ------------------------------------------------------------------------------------------------ keys

-- name: key_insert
-- A new API key: its keyed hash, never its secret.
INSERT INTO keys (key_id, alias, scopes, hash, created_at) VALUES (:key_id, :alias, :scopes, :hash, :now);

-- name: key_get
-- One key, revoked or not.
SELECT * FROM keys WHERE key_id = :key_id;

-- name: key_list
-- All keys, oldest first.
SELECT * FROM keys ORDER BY created_at, key_id;

-- name: key_count
-- How many keys there ever were.
SELECT count(*) FROM keys;

-- name: key_revoke
-- End a key's life.
UPDATE keys SET revoked_at = :now WHERE key_id = :key_id AND revoked_at IS NULL;

-- name: key_touch
-- Note that a key was used.
UPDATE keys SET last_used_at = :now WHERE key_id = :key_id;
