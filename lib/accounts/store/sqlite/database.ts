import { accessSync, closeSync, constants, existsSync, openSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { CommandError, exitCodes } from '../../../../errors.ts'
import { openDatabase, type Database } from '../../../storage/database.ts'
import { makeFolders } from '../../../options/folders.ts'
import { ownershipHint } from '../../../storage/ownership.ts'

/**
 * Times are milliseconds since 1970, UTC. A NULL password means that the account lives elsewhere (unix, pam). Local
 * names differ by more than case; names of the system are compared as the system does, where `alice` and `Alice` are
 * two people. The newest 100,000 removed accounts are remembered by id, whichever program removes them: their jobs have
 * to be cancelled.
 */
export const authMigrations = [`
  CREATE TABLE users (
    id TEXT PRIMARY KEY,
    username TEXT NOT NULL,
    source TEXT NOT NULL CHECK (source IN ('local', 'unix', 'pam')),
    role TEXT NOT NULL CHECK (role IN ('admin', 'user')),
    password TEXT,
    disabled INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    last_login_at INTEGER
  ) STRICT;
  CREATE UNIQUE INDEX local_users ON users (username COLLATE NOCASE) WHERE source = 'local';
  CREATE UNIQUE INDEX system_users ON users (source, username) WHERE source <> 'local';
  CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    address TEXT NOT NULL,
    user_agent TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    last_used_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
  ) STRICT;
  CREATE INDEX sessions_of_user ON sessions (user_id);
  CREATE TABLE refresh_tokens (
    hash BLOB PRIMARY KEY,
    session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    used_at INTEGER
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX refresh_tokens_of_session ON refresh_tokens (session_id);
  CREATE TABLE api_keys (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    hash BLOB NOT NULL,
    permissions TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    last_used_at INTEGER
  ) STRICT;
  CREATE INDEX api_keys_of_user ON api_keys (user_id);
  CREATE TABLE audit (
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    event TEXT NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('success', 'failure')),
    actor TEXT NOT NULL,
    subject TEXT,
    address TEXT,
    reason TEXT
  ) STRICT;
  CREATE INDEX audit_by_outcome ON audit (outcome, id);
`, `
  CREATE INDEX users_by_name ON users (username, source);
  CREATE INDEX api_keys_by_age ON api_keys (created_at, id);
  CREATE INDEX api_keys_of_user_by_age ON api_keys (user_id, created_at, id);
  DROP INDEX api_keys_of_user;
`, `
  CREATE TABLE removed_users (
    id TEXT NOT NULL UNIQUE
  ) STRICT;
  CREATE TRIGGER remember_removed_user AFTER DELETE ON users BEGIN
    INSERT OR REPLACE INTO removed_users VALUES (old.id);
    DELETE FROM removed_users WHERE rowid <= last_insert_rowid() - 100000;
  END;
  `,
  `
  ALTER TABLE audit ADD COLUMN kind TEXT NOT NULL DEFAULT 'use' CHECK (kind IN ('administration', 'use', 'failure'));
  ALTER TABLE audit ADD COLUMN share TEXT NOT NULL DEFAULT '';
  UPDATE audit SET share = CASE outcome WHEN 'success' THEN actor ELSE coalesce(address, '') END, kind = CASE
    WHEN outcome = 'failure' THEN 'failure'
    WHEN event IN ('user.create', 'user.update', 'user.remove', 'model.pull', 'model.convert', 'model.remove')
      THEN 'administration'
    ELSE 'use' END;
  DROP INDEX audit_by_outcome;
  CREATE INDEX audit_by_share ON audit (kind, share, id);
`]

/**
 * Opens `auth.db` in `folder`, which is made with mode 0700 when it is missing.
 * @throws {CommandError} (storage) what `prepareAuthFolder` throws, and when the file can't be opened.
 */
export function openAuthDatabase (folder: string): Database {
  prepareAuthFolder(folder)
  const file = join(folder, 'auth.db')
  try {
    makeFile(file)
  } catch (error) {
    throw cannotOpen(file, error)
  }
  return openDatabase(file, authMigrations)
}

/**
 * @param made is told of each folder that was made.
 * @throws {CommandError} (storage) when the folder can't be made or used, or is writable for all users.
 */
export function prepareAuthFolder (folder: string, made: string[] = []): void {
  const file = join(folder, 'auth.db')
  try {
    makeFolders(folder, made)
    accessSync(folder, constants.W_OK | constants.X_OK)
    if (existsSync(file)) accessSync(file, constants.R_OK | constants.W_OK)
  } catch (error) {
    throw cannotOpen(file, error)
  }
  if ((statSync(folder).mode & 0o002) !== 0) {
    throw new CommandError(exitCodes.storage,
      `Every user of this machine can replace the accounts in ${folder}: chmod o-w ${folder}, ` +
      'or choose another folder with --auth-data-dir.')
  }
}

function cannotOpen (file: string, error: unknown): CommandError {
  return new CommandError(exitCodes.storage,
    `The accounts ${file} cannot be opened: ${(error as Error).message}. ` +
    `Choose another folder with --auth-data-dir.${ownershipHint(file)}`)
}

/**
 * SQLite gives its -wal and -shm files the mode that the database has when they are made, so it has the right one
 * first. A file that is there is not opened: closing it would drop every lock that this process holds on it, SQLite's
 * too, and the next program that looks into the database would take away the -wal file under a running server.
 */
function makeFile (file: string): void {
  try {
    closeSync(openSync(file, 'wx', 0o600))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
  }
}
