-- Webhook deliveries that are made: whom they go to, who is at it, what became of every try; and the keys that sign them.
-- All times are unix seconds.

ALTER TABLE webhook_deliveries ADD COLUMN host TEXT NOT NULL DEFAULT '';   -- host:port; hosts do not wait for each other
ALTER TABLE webhook_deliveries ADD COLUMN claim TEXT;                      -- fences off whoever claimed it before
ALTER TABLE webhook_deliveries ADD COLUMN tries INTEGER NOT NULL DEFAULT 0; -- of this series; `attempt` counts all series
ALTER TABLE webhook_deliveries DROP COLUMN last_status;
ALTER TABLE webhook_deliveries DROP COLUMN last_error;

DROP INDEX webhook_due;
CREATE INDEX webhook_due ON webhook_deliveries (host, next_at) WHERE state = 'DUE';
CREATE INDEX webhook_claimed ON webhook_deliveries (claimed_until) WHERE claimed_until IS NOT NULL;

CREATE TABLE webhook_attempts (
  delivery_id TEXT NOT NULL REFERENCES webhook_deliveries (delivery_id) ON DELETE CASCADE,
  number INTEGER NOT NULL,                        -- 1, 2, 3 … within the delivery
  at REAL NOT NULL,
  http_status INTEGER,
  error TEXT,
  seconds REAL NOT NULL,
  PRIMARY KEY (delivery_id, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE signing_keys (
  kid TEXT PRIMARY KEY,
  sealed BLOB NOT NULL,                           -- the private key, encrypted under the pepper, which lies outside this file
  public BLOB NOT NULL,
  created_at REAL NOT NULL,
  active_from REAL NOT NULL,
  retire_at REAL                                  -- published until then; NULL: nothing follows it yet
) STRICT;
