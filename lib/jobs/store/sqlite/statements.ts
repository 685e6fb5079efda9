import type { Database } from '../../../storage/database.ts'

export type Statement = ReturnType<Database['prepare']>
export type Statements = ReturnType<typeof prepareAll>

/** All SQL of the store but its schema and its lists. */
export function prepareAll (database: Database) {
  const all = {
    insert: `INSERT INTO jobs
      (id, type, status, owner, caller, model, priority, parameters, units, input_bytes, created_at)
      VALUES ($id, $type, 'queued', $owner, $caller, $model, $priority, $parameters, $units, $input_bytes,
        $created_at) RETURNING *`,
    get: 'SELECT * FROM jobs WHERE id = $id',
    waiting: "SELECT * FROM jobs WHERE status = 'queued'",
    running: "SELECT id FROM jobs WHERE status = 'running'",
    isCancelling: "SELECT 1 FROM jobs WHERE id = $id AND status = 'running' AND cancelling = 1",
    inputs: `SELECT caller, sum(input_bytes) AS bytes FROM jobs
      WHERE status IN ('queued', 'running') AND input_bytes > 0 GROUP BY caller`,
    counts: 'SELECT status, jobs FROM counts',
    lastService: 'SELECT max(service) AS service FROM jobs',
    turnsOf: `SELECT type, service FROM jobs
      WHERE caller = $caller AND service IS NOT NULL ORDER BY service DESC LIMIT 1000`,

    start: `UPDATE jobs
      SET status = 'running', attempts = attempts + 1, started_at = $now, service = $service, returned = 0,
        cancelling = 0
      WHERE id = $id AND status = 'queued' RETURNING *`,
    overtake: 'UPDATE jobs SET overtaken = overtaken + 1 WHERE id IN (SELECT value FROM json_each($ids))',
    end: `UPDATE jobs
      SET status = $status, error_code = $error_code, error_message = $error_message, bytes = $bytes, finished_at = $now
      WHERE id = $id AND status = 'running' RETURNING *`,
    cancelQueued: `UPDATE jobs SET status = 'cancelled', finished_at = $now
      WHERE id = $id AND status = 'queued' RETURNING *`,
    markCancelling: "UPDATE jobs SET cancelling = 1 WHERE id = $id AND status = 'running' RETURNING *",
    giveBack: `UPDATE jobs SET status = 'queued', returned = 1, started_at = NULL, attempts = attempts - 1
      WHERE id = $id AND status = 'running' AND cancelling = 0 RETURNING *`,
    retry: `UPDATE jobs SET status = 'queued', returned = 1, started_at = NULL, engine_crashes = engine_crashes + 1
      WHERE id = $id AND status = 'running' AND cancelling = 0 AND engine_crashes + 1 < $most RETURNING *`,
    retryAfterDeath: `UPDATE jobs
      SET status = 'queued', returned = 1, started_at = NULL, server_deaths = server_deaths + 1
      WHERE id = $id AND status = 'running' AND cancelling = 0 AND server_deaths + 1 < $most RETURNING *`,

    images: `SELECT job, number AS "index", width, height, bytes, seed FROM images
      WHERE job IN (SELECT value FROM json_each($sequences)) ORDER BY job, number`,
    imageFile: 'SELECT file FROM images WHERE job = (SELECT sequence FROM jobs WHERE id = $id) AND number = $number',
    insertImage: `INSERT INTO images (job, number, file, width, height, bytes, seed)
      VALUES ($job, $number, $file, $width, $height, $bytes, $seed)`,
    setResult: 'UPDATE jobs SET result = $result WHERE sequence = $sequence RETURNING *',
    withImages: 'SELECT id FROM jobs WHERE id IN (SELECT value FROM json_each($ids)) AND bytes > 0',
    kept: 'SELECT coalesce(sum(bytes), 0) AS amount FROM kept',
    keptUnits: 'SELECT coalesce(sum(units), 0) AS amount FROM kept',
    keptAbove: 'SELECT caller, bytes AS amount FROM kept WHERE bytes > $most',
    mostBytes: 'SELECT caller, bytes AS amount FROM kept ORDER BY bytes DESC',
    mostUnits: 'SELECT caller, units AS amount FROM kept ORDER BY units DESC',
    oldestWithImages: `SELECT sequence, id, created_at, finished_at, units, bytes FROM jobs
      WHERE caller = $caller AND finished_at IS NOT NULL AND bytes > 0 ORDER BY finished_at, sequence LIMIT $limit`,
    oldestWithoutImages: `SELECT sequence, id, created_at, finished_at, units, bytes FROM jobs
      WHERE caller = $caller AND finished_at IS NOT NULL AND bytes = 0 ORDER BY finished_at, sequence LIMIT $limit`,
    spareWithoutImages: `SELECT sequence, id, created_at, finished_at, units, bytes FROM jobs
      WHERE caller = $caller AND finished_at IS NOT NULL AND bytes = 0 AND (finished_at, sequence) <= (
        SELECT finished_at, sequence FROM jobs WHERE caller = $caller AND finished_at IS NOT NULL AND bytes = 0
        ORDER BY finished_at DESC, sequence DESC LIMIT 1 OFFSET $spare)
      ORDER BY finished_at, sequence LIMIT $limit`,
    keptOfAll: 'SELECT id, created_at, bytes FROM jobs WHERE bytes > 0 ORDER BY finished_at LIMIT $limit',
    dropImages: `DELETE FROM images
      WHERE job IN (SELECT sequence FROM jobs WHERE id IN (SELECT value FROM json_each($ids)))`,
    dropBytes: 'UPDATE jobs SET bytes = 0 WHERE id IN (SELECT value FROM json_each($ids))',

    findKey: `SELECT request_hash AS hash, jobs.id FROM idempotency_keys JOIN jobs ON sequence = job
      WHERE idempotency_keys.caller = $caller AND key = $key AND idempotency_keys.created_at > $after`,
    insertKey: `INSERT OR REPLACE INTO idempotency_keys (caller, key, request_hash, job, created_at)
      VALUES ($caller, $key, $hash, $job, $created_at)`,
    dropKeys: 'DELETE FROM idempotency_keys WHERE created_at <= $before',

    insertWebhook: 'INSERT INTO webhooks (job, url, caller) VALUES ($job, $url, $caller)',
    pendingWebhooks: `SELECT (SELECT count(*) FROM webhooks WHERE caller = $caller) AS own,
      (SELECT count(*) FROM webhooks) AS "all"`,
    // From one caller to the next in the index, however many webhooks each has.
    callersWithDueWebhooks: `WITH RECURSIVE callers (caller) AS (
        SELECT min(caller) FROM webhooks
        UNION ALL SELECT (SELECT min(caller) FROM webhooks WHERE caller > callers.caller)
        FROM callers WHERE caller IS NOT NULL
      ), first (caller, due_at) AS (
        SELECT caller, (
          SELECT min(due_at) FROM webhooks WHERE webhooks.caller = callers.caller AND due_at IS NOT NULL) FROM callers
        WHERE caller IS NOT NULL
      ) SELECT caller FROM first WHERE due_at <= $now ORDER BY due_at`,
    dueWebhooks: `SELECT sequence, id, url, tries FROM webhooks JOIN jobs ON sequence = job
      WHERE webhooks.caller = $caller AND due_at <= $now ORDER BY due_at LIMIT $limit`,
    nextWebhook: 'SELECT min(due_at) AS due_at FROM webhooks WHERE due_at > $now',
    postponeWebhook: 'UPDATE webhooks SET tries = tries + 1, due_at = $due_at WHERE job = $sequence',
    forgetWebhook: 'DELETE FROM webhooks WHERE job = $sequence',

    unended: "SELECT id, owner FROM jobs WHERE status = 'queued' OR (status = 'running' AND cancelling = 0)",
    endedBefore: 'SELECT id, created_at FROM jobs WHERE finished_at < $before ORDER BY finished_at LIMIT $limit',
    remove: `DELETE FROM jobs WHERE id IN (SELECT value FROM json_each($ids))
      AND status IN ('completed', 'failed', 'cancelled')`
  }
  return Object.fromEntries(Object.entries(all).map(([name, sql]) => [name, database.prepare(sql)])) as
    Record<keyof typeof all, Statement>
}
