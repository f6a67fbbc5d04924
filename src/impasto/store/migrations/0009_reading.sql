-- A request whose input names files (images, masks, LoRAs) is claimed once they are read. Until then it waits here.

ALTER TABLE requests ADD COLUMN reading INTEGER NOT NULL DEFAULT 0;    -- 1: its files are not read yet; not_before is far

CREATE INDEX requests_reading ON requests (key_id, endpoint, priority, seq) WHERE reading = 1 AND status = 'IN_QUEUE';
