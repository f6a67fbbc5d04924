-- Webhooks of several keys take turns: whose a delivery is, and what each key has due for which host.

ALTER TABLE webhook_deliveries ADD COLUMN key_id TEXT NOT NULL DEFAULT '';
UPDATE webhook_deliveries SET key_id = (
  SELECT key_id FROM requests WHERE requests.request_id = webhook_deliveries.request_id
);

DROP INDEX webhook_due;
CREATE INDEX webhook_due ON webhook_deliveries (key_id, host, next_at) WHERE state = 'DUE';
