import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { pathToFileURL } from 'node:url'
import type { Test } from 'tap'
import { packageRoot } from '../../lib/util/package-root.ts'
import { writeCheckpoint } from '../../bin/support/demo-model/checkpoints.ts'
import { startServer, type RunningServer } from '../../test/server-process.ts'
import type { Scope } from '../figure.ts'

export function folderOf (scope: Scope): string {
  const folder = mkdtempSync(join(tmpdir(), 'sdrest-bench-'))
  scope.teardown(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

export interface Workspace {
  models: string
  data: string
}

/** A models folder with the tiny model, and a place for the data of a server. */
export function workspaceOf (scope: Scope): Workspace {
  const folder = folderOf(scope)
  const workspace = { models: join(folder, 'models'), data: join(folder, 'data') }
  mkdirSync(workspace.models)
  writeCheckpoint('minit2i', join(workspace.models, 'minit2i.safetensors'))
  return workspace
}

/** The built server, as a user would start it. */
export async function serve (
  scope: Scope, { models, data }: Workspace, more: string[] = [], env: Record<string, string> = {}
): Promise<RunningServer> {
  // It takes nothing of a test but its teardown.
  return await startServer(scope as unknown as Test, [
    '--models-dir', models, '--data-dir', data, '--log-level', 'info', ...more
  ], { env })
}

/** Runs a compiled file of this folder that prints the address it listens on. */
export async function startPart (
  scope: Scope, name: string, parameters: string[]
): Promise<{ url: string, pid: number }> {
  const child = spawn(process.execPath, [compiled(name), ...parameters], { stdio: ['ignore', 'pipe', 'inherit'] })
  scope.teardown(() => child.kill('SIGKILL'))
  const [line] = await once(createInterface({ input: child.stdout }), 'line') as [string]
  return { url: line, pid: child.pid! }
}

export function compiled (name: string): string {
  return join(packageRoot, 'dist', 'bench', 'parts', `${name}.js`)
}

/** For NODE_OPTIONS: the engine of the server then answers at once. */
export const withInstantEngine = { NODE_OPTIONS: `--import=${pathToFileURL(compiled('use-instant-engine')).href}` }

/** Seconds of processor time that a process has used, with all its threads; proc(5) has it in nanoseconds for each. */
export function processorTime (pid: number): number {
  const threads = readdirSync(`/proc/${pid}/task`)
  return threads.reduce((sum, thread) =>
    sum + Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ', 1)[0]), 0) / 1e9
}

/** Bytes of memory that a process holds. */
export function residentMemory (pid: number): number {
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]) * 1024
}
