-- What callers ask for their files: how long they live, who may read them; and how much a key has uploaded.

ALTER TABLE requests ADD COLUMN lifecycle TEXT;   -- JSON, of the files it will make; only `finish` reads it
ALTER TABLE files ADD COLUMN acl TEXT;            -- JSON; NULL: everybody may read

CREATE INDEX files_uploads ON files (key_id, expires_at, size) WHERE request_id IS NULL AND deleting = 0;
