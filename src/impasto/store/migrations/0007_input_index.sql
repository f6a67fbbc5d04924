-- What is known of an input without reading it: a search for words, a list and a quota must not read 20 MiB of data URIs.
-- `prompt_of` and `brief_of` are functions of Python (store/briefs.py).

CREATE TABLE input_index (
  seq INTEGER PRIMARY KEY REFERENCES requests (seq) ON DELETE CASCADE,
  key_id TEXT NOT NULL,
  prompt TEXT,                                    -- its first 2,000 characters; NULL: there is none, or it is not kept
  bytes INTEGER NOT NULL,                         -- of the JSON in requests.input
  brief TEXT,                                     -- what a large input is replaced by when it is not kept; NULL: it is small
  ended INTEGER NOT NULL DEFAULT 0                -- 1: its request is COMPLETED
) STRICT;

CREATE INDEX input_large_of_key ON input_index (key_id, seq) WHERE ended = 1 AND brief IS NOT NULL;
CREATE INDEX input_large ON input_index (seq) WHERE ended = 1 AND brief IS NOT NULL;

-- Sums, kept by the triggers below: of one key ('key:' and its id) and of all ('all').
CREATE TABLE input_totals (scope TEXT PRIMARY KEY, bytes INTEGER NOT NULL) STRICT, WITHOUT ROWID;

CREATE TRIGGER input_added AFTER INSERT ON input_index
BEGIN
  INSERT INTO input_totals (scope, bytes) VALUES ('all', NEW.bytes), ('key:' || NEW.key_id, NEW.bytes)
  ON CONFLICT (scope) DO UPDATE SET bytes = bytes + excluded.bytes;
END;

CREATE TRIGGER input_resized AFTER UPDATE OF bytes ON input_index WHEN OLD.bytes <> NEW.bytes
BEGIN
  UPDATE input_totals SET bytes = bytes + NEW.bytes - OLD.bytes WHERE scope IN ('all', 'key:' || NEW.key_id);
END;

CREATE TRIGGER input_removed AFTER DELETE ON input_index
BEGIN
  UPDATE input_totals SET bytes = bytes - OLD.bytes WHERE scope IN ('all', 'key:' || OLD.key_id);
  DELETE FROM input_totals WHERE scope = 'key:' || OLD.key_id AND bytes <= 0;
END;

INSERT INTO input_index (seq, key_id, prompt, bytes, brief, ended)
SELECT seq, key_id, CASE WHEN store_io THEN prompt_of(input) END, length(input), brief_of(input), status = 'COMPLETED'
FROM requests;
