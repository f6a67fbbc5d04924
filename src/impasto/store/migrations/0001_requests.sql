-- The first schema: requests with their results, logs, files and webhook outbox; API keys.
-- Times called *_at, *_deadline are unix seconds; lease_until and not_before are read on the monotonic clock of `boot`.

CREATE TABLE requests (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,          -- order of arrival
  request_id TEXT NOT NULL UNIQUE,
  endpoint TEXT NOT NULL,
  key_id TEXT NOT NULL,
  priority INTEGER NOT NULL,                      -- 0 normal, 1 low
  status TEXT NOT NULL DEFAULT 'IN_QUEUE' CHECK (status IN ('IN_QUEUE', 'IN_PROGRESS', 'COMPLETED')),
  outcome TEXT CHECK (outcome IN ('OK', 'ERROR', 'CANCELLED', 'TIMEOUT')),
  http_status INTEGER,
  error TEXT,
  error_type TEXT,
  seed TEXT NOT NULL,                             -- decimal: 64 bits without a sign do not fit SQLite's integer
  base_url TEXT NOT NULL,
  webhook_url TEXT,
  no_retry INTEGER NOT NULL,
  store_io INTEGER NOT NULL,
  idempotency_key TEXT,
  idempotency_hash BLOB,
  attempt INTEGER NOT NULL DEFAULT 0,
  crash_count INTEGER NOT NULL DEFAULT 0,
  max_attempts INTEGER NOT NULL,
  boot TEXT NOT NULL,                             -- the process whose monotonic clock the next two are read on
  not_before REAL NOT NULL DEFAULT 0,
  lease_until REAL,
  lease TEXT,
  runner_id TEXT,
  cancel_requested INTEGER NOT NULL DEFAULT 0,
  start_deadline REAL,
  created_at REAL NOT NULL,
  started_at REAL,
  finished_at REAL,
  expires_at REAL,
  inference_time REAL,
  log_lines INTEGER NOT NULL DEFAULT 0,
  log_bytes INTEGER NOT NULL DEFAULT 0,
  log_full INTEGER NOT NULL DEFAULT 0,
  input TEXT NOT NULL,                            -- JSON; last, so that a long one does not slow the other columns
  CHECK ((status = 'COMPLETED') = (outcome IS NOT NULL AND http_status IS NOT NULL AND finished_at IS NOT NULL)),
  CHECK ((status = 'IN_PROGRESS') = (lease IS NOT NULL AND lease_until IS NOT NULL))
) STRICT;

CREATE UNIQUE INDEX requests_idempotency ON requests (key_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX requests_queue ON requests (endpoint, priority, seq) WHERE status = 'IN_QUEUE';
CREATE INDEX requests_lease ON requests (lease_until) WHERE status = 'IN_PROGRESS';
CREATE INDEX requests_deadline ON requests (start_deadline) WHERE status = 'IN_QUEUE' AND start_deadline IS NOT NULL;
CREATE INDEX requests_backoff ON requests (boot) WHERE status = 'IN_QUEUE' AND not_before > 0;
CREATE INDEX requests_expiry ON requests (expires_at) WHERE expires_at IS NOT NULL;

CREATE TRIGGER completed_is_absorbing BEFORE UPDATE OF status, outcome, http_status ON requests
WHEN OLD.status = 'COMPLETED'
BEGIN
  SELECT RAISE(ABORT, 'a completed request does not move');
END;

CREATE TABLE results (
  request_id TEXT PRIMARY KEY REFERENCES requests (request_id) ON DELETE CASCADE,
  lease TEXT,                                     -- of the attempt that won; NULL: no runner wrote it
  http_status INTEGER NOT NULL,
  headers TEXT NOT NULL,
  payload TEXT NOT NULL
) STRICT;

CREATE TRIGGER results_are_immutable BEFORE UPDATE ON results
BEGIN
  SELECT RAISE(ABORT, 'a stored result does not change');
END;

CREATE TABLE logs (
  request_id TEXT NOT NULL REFERENCES requests (request_id) ON DELETE CASCADE,
  n INTEGER NOT NULL,                             -- 1, 2, 3 … within the request
  attempt INTEGER NOT NULL,
  timestamp TEXT NOT NULL,
  message TEXT NOT NULL,
  level TEXT NOT NULL,
  source TEXT NOT NULL,
  labels TEXT NOT NULL,
  PRIMARY KEY (request_id, n)
) STRICT, WITHOUT ROWID;

-- No reference to requests: a file's row goes last, after its bytes.
CREATE TABLE files (
  token TEXT PRIMARY KEY,
  media_type TEXT NOT NULL,
  size INTEGER NOT NULL,
  file_name TEXT,
  request_id TEXT,
  key_id TEXT NOT NULL,
  created_at REAL NOT NULL,
  expires_at REAL,
  deleting INTEGER NOT NULL DEFAULT 0             -- 1: no longer served, the bytes are to be deleted
) STRICT;

CREATE INDEX files_expiry ON files (expires_at) WHERE deleting = 0 AND expires_at IS NOT NULL;
CREATE INDEX files_deleting ON files (token) WHERE deleting = 1;
CREATE INDEX files_request ON files (request_id) WHERE request_id IS NOT NULL;

CREATE TABLE webhook_deliveries (
  delivery_id TEXT PRIMARY KEY,
  request_id TEXT NOT NULL UNIQUE REFERENCES requests (request_id) ON DELETE CASCADE,
  url TEXT NOT NULL,
  state TEXT NOT NULL DEFAULT 'DUE' CHECK (state IN ('DUE', 'DELIVERED', 'DEAD')),
  attempt INTEGER NOT NULL DEFAULT 0,
  next_at REAL NOT NULL,
  claimed_until REAL,
  last_status INTEGER,
  last_error TEXT,
  created_at REAL NOT NULL
) STRICT;

CREATE INDEX webhook_due ON webhook_deliveries (next_at) WHERE state = 'DUE';

CREATE TABLE keys (
  key_id TEXT PRIMARY KEY,
  alias TEXT NOT NULL,
  scopes TEXT NOT NULL,                           -- JSON list
  hash BLOB NOT NULL,                             -- HMAC-SHA256 of the secret under the pepper, which lies outside this file
  created_at REAL NOT NULL,
  last_used_at REAL,
  revoked_at REAL
) STRICT;
