-- Looking back: what a caller sent lately, and what ended when.

ALTER TABLE requests ADD COLUMN pictures INTEGER NOT NULL DEFAULT 0;    -- of the result; known at its end

-- seq is the row id, so each of these is in the order of arrival too.
CREATE INDEX requests_of_key ON requests (key_id);
CREATE INDEX requests_of_endpoint ON requests (endpoint);
CREATE INDEX requests_of_both ON requests (endpoint, key_id);

-- Whole rows of the counts: a report over a busy day never reads the requests themselves, with their long inputs.
CREATE INDEX requests_ended ON requests (
  finished_at, endpoint, key_id, http_status, pictures, inference_time, created_at, started_at
) WHERE finished_at IS NOT NULL;
