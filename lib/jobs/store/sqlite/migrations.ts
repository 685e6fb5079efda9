/**
 * The schema of jobs.db, one entry per version; an entry that was released never changes.
 *
 * `sequence` is the order of submission and the cursor of lists. Times are milliseconds since 1970. `service` numbers
 * the starts of all jobs: an owner's highest one says how recently that owner was served. `returned` marks a job that
 * had its turn and came back, `cancelling` a running one that is to be cancelled. What stands behind a filter column in
 * an index lets a page be found without touching the rows it leaves out. `caller` is whose share of the bounds a job
 * takes: its owner, or the address of a guest. `units` is how many jobs it counts for by the length of its parameters,
 * `bytes` are those of its kept images, and `kept` holds the sums of both over the ended jobs of each caller.
 * `input_bytes` lie in the folder of inputs until the job ends. A webhook is due when its job has ended, and again
 * after each failed try.
 * `engine_crashes` and `server_deaths` count how attempts of a job ended early.
 */
export const migrations: readonly string[] = [`
  CREATE TABLE jobs (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    type TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('queued', 'running', 'completed', 'failed', 'cancelled')),
    owner TEXT NOT NULL,
    model TEXT NOT NULL,
    priority INTEGER NOT NULL CHECK (priority BETWEEN -10 AND 10),
    parameters TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    error_code TEXT,
    error_message TEXT,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    finished_at INTEGER,
    service INTEGER,
    overtaken INTEGER NOT NULL DEFAULT 0,
    returned INTEGER NOT NULL DEFAULT 0,
    cancelling INTEGER NOT NULL DEFAULT 0
  ) STRICT;
  CREATE INDEX jobs_by_status ON jobs (status, sequence, model, type);
  CREATE INDEX jobs_by_model ON jobs (model, sequence, type);
  CREATE INDEX jobs_by_type ON jobs (type, sequence);
  CREATE INDEX jobs_by_owner ON jobs (owner, sequence);
  CREATE INDEX jobs_by_owner_status ON jobs (owner, status, sequence, model, type);
  CREATE INDEX jobs_by_owner_model ON jobs (owner, model, sequence, type);
  CREATE INDEX jobs_by_owner_type ON jobs (owner, type, sequence);
  CREATE INDEX jobs_by_service ON jobs (owner, service) WHERE service IS NOT NULL;
  CREATE INDEX jobs_waiting ON jobs (owner) WHERE status = 'queued';
  CREATE INDEX jobs_ended ON jobs (finished_at) WHERE finished_at IS NOT NULL;

  CREATE TABLE images (
    job INTEGER NOT NULL REFERENCES jobs (sequence) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    file TEXT NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    seed INTEGER NOT NULL,
    PRIMARY KEY (job, number)
  ) STRICT, WITHOUT ROWID;

  CREATE TABLE idempotency_keys (
    owner TEXT NOT NULL,
    key TEXT NOT NULL,
    request_hash TEXT NOT NULL,
    job INTEGER NOT NULL REFERENCES jobs (sequence) ON DELETE CASCADE,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (owner, key)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX idempotency_keys_by_job ON idempotency_keys (job);
  CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);

  CREATE TABLE counts (status TEXT PRIMARY KEY, jobs INTEGER NOT NULL) STRICT, WITHOUT ROWID;
  INSERT INTO counts VALUES ('queued', 0), ('running', 0), ('completed', 0), ('failed', 0), ('cancelled', 0);
  CREATE TRIGGER count_insert AFTER INSERT ON jobs BEGIN
    UPDATE counts SET jobs = jobs + 1 WHERE status = NEW.status;
  END;
  CREATE TRIGGER count_update AFTER UPDATE OF status ON jobs BEGIN
    UPDATE counts SET jobs = jobs - 1 WHERE status = OLD.status;
    UPDATE counts SET jobs = jobs + 1 WHERE status = NEW.status;
  END;
  CREATE TRIGGER count_delete AFTER DELETE ON jobs BEGIN
    UPDATE counts SET jobs = jobs - 1 WHERE status = OLD.status;
  END;
`, `
  ALTER TABLE jobs ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
  UPDATE jobs SET bytes = images.bytes
    FROM (SELECT job, sum(bytes) AS bytes FROM images GROUP BY job) AS images WHERE job = sequence;
  CREATE INDEX jobs_kept ON jobs (finished_at) WHERE bytes > 0;
  CREATE INDEX jobs_kept_by_owner ON jobs (owner, finished_at) WHERE bytes > 0;

  CREATE TABLE kept (owner TEXT PRIMARY KEY, bytes INTEGER NOT NULL) STRICT, WITHOUT ROWID;
  INSERT INTO kept SELECT owner, sum(bytes) FROM jobs WHERE bytes > 0 GROUP BY owner;
  CREATE TRIGGER kept_update AFTER UPDATE OF bytes ON jobs BEGIN
    INSERT INTO kept VALUES (NEW.owner, NEW.bytes - OLD.bytes)
      ON CONFLICT (owner) DO UPDATE SET bytes = kept.bytes + excluded.bytes;
    DELETE FROM kept WHERE owner = NEW.owner AND bytes = 0;
  END;
  CREATE TRIGGER kept_delete AFTER DELETE ON jobs WHEN OLD.bytes > 0 BEGIN
    UPDATE kept SET bytes = bytes - OLD.bytes WHERE owner = OLD.owner;
    DELETE FROM kept WHERE owner = OLD.owner AND bytes = 0;
  END;
`, `
  CREATE TABLE webhooks (
    job INTEGER PRIMARY KEY REFERENCES jobs (sequence) ON DELETE CASCADE,
    url TEXT NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,
    due_at INTEGER
  ) STRICT;
  CREATE INDEX webhooks_due ON webhooks (due_at) WHERE due_at IS NOT NULL;
  CREATE TRIGGER webhook_due AFTER UPDATE OF finished_at ON jobs WHEN NEW.finished_at IS NOT NULL BEGIN
    UPDATE webhooks SET due_at = NEW.finished_at WHERE job = NEW.sequence;
  END;
`, `
  ALTER TABLE jobs ADD COLUMN result TEXT;
`, `
  DROP INDEX jobs_waiting; -- the waiting jobs are counted in memory
`, `
  ALTER TABLE jobs ADD COLUMN engine_crashes INTEGER NOT NULL DEFAULT 0;
  ALTER TABLE jobs ADD COLUMN server_deaths INTEGER NOT NULL DEFAULT 0;
  UPDATE jobs SET engine_crashes = max(0, attempts - (status = 'running')) WHERE status IN ('queued', 'running');
`, `
  ALTER TABLE jobs ADD COLUMN caller TEXT NOT NULL DEFAULT '';
  ALTER TABLE jobs ADD COLUMN units INTEGER NOT NULL DEFAULT 1;
  ALTER TABLE jobs ADD COLUMN input_bytes INTEGER NOT NULL DEFAULT 0;
  UPDATE jobs SET caller = owner, units = 1 + length(CAST(parameters AS BLOB)) / 16384;
  DROP INDEX jobs_by_service;
  CREATE INDEX jobs_by_service ON jobs (caller, service) WHERE service IS NOT NULL;

  DROP INDEX jobs_kept_by_owner;
  CREATE INDEX jobs_with_images ON jobs (caller, finished_at) WHERE finished_at IS NOT NULL AND bytes > 0;
  CREATE INDEX jobs_without_images ON jobs (caller, finished_at) WHERE finished_at IS NOT NULL AND bytes = 0;

  DROP TRIGGER kept_update;
  DROP TRIGGER kept_delete;
  DROP TABLE kept;
  CREATE TABLE kept (caller TEXT PRIMARY KEY, units INTEGER NOT NULL, bytes INTEGER NOT NULL) STRICT, WITHOUT ROWID;
  CREATE INDEX kept_by_units ON kept (units);
  CREATE INDEX kept_by_bytes ON kept (bytes);
  INSERT INTO kept SELECT caller, sum(units), sum(bytes) FROM jobs WHERE finished_at IS NOT NULL GROUP BY caller;
  CREATE TRIGGER kept_update AFTER UPDATE OF finished_at, bytes ON jobs WHEN NEW.finished_at IS NOT NULL BEGIN
    INSERT INTO kept VALUES (NEW.caller, iif(OLD.finished_at IS NULL, NEW.units, 0), NEW.bytes - OLD.bytes)
      ON CONFLICT (caller) DO UPDATE SET units = kept.units + excluded.units, bytes = kept.bytes + excluded.bytes;
  END;
  CREATE TRIGGER kept_delete AFTER DELETE ON jobs WHEN OLD.finished_at IS NOT NULL BEGIN
    UPDATE kept SET units = units - OLD.units, bytes = bytes - OLD.bytes WHERE caller = OLD.caller;
    DELETE FROM kept WHERE caller = OLD.caller AND units <= 0;
  END;
`, `
  ALTER TABLE webhooks ADD COLUMN caller TEXT NOT NULL DEFAULT '';
  UPDATE webhooks SET caller = jobs.caller FROM jobs WHERE sequence = job;
  CREATE INDEX webhooks_by_caller ON webhooks (caller, due_at);
`, `
  -- What a list filters by lies before the long parameters: a filter by time would read past them in every row.
  DROP INDEX jobs_by_status;
  DROP INDEX jobs_by_model;
  DROP INDEX jobs_by_type;
  DROP INDEX jobs_by_owner;
  DROP INDEX jobs_by_owner_status;
  DROP INDEX jobs_by_owner_model;
  DROP INDEX jobs_by_owner_type;
  CREATE INDEX jobs_by_time ON jobs (sequence, created_at);
  CREATE INDEX jobs_by_status ON jobs (status, sequence, model, type, created_at);
  CREATE INDEX jobs_by_model ON jobs (model, sequence, type, created_at);
  CREATE INDEX jobs_by_type ON jobs (type, sequence, created_at);
  CREATE INDEX jobs_by_owner ON jobs (owner, sequence, created_at);
  CREATE INDEX jobs_by_owner_status ON jobs (owner, status, sequence, model, type, created_at);
  CREATE INDEX jobs_by_owner_model ON jobs (owner, model, sequence, type, created_at);
  CREATE INDEX jobs_by_owner_type ON jobs (owner, type, sequence, created_at);
`, `
  ALTER TABLE idempotency_keys RENAME COLUMN owner TO caller;
  UPDATE OR REPLACE idempotency_keys SET caller = jobs.caller FROM jobs WHERE sequence = job;
`]
