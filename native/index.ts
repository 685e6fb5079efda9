import { execFile } from 'node:child_process'
import { open, readFile, stat } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { isMainThread } from 'node:worker_threads'
import { packageRoot } from '../lib/util/package-root.ts'
import type { EngineAddon } from './engine-types.ts'
import type { Addon, AuthAddon } from './types.ts'

/** The only door to the addons: finds them, tries them in a process of their own, loads them. */

export type * from './types.ts'

export const addonNames = ['auth', 'engine'] as const
export type AddonName = typeof addonNames[number]

export type FoundAddon =
  | { ok: true, path: string, version: string }
  | { ok: false, reason: string, isBuilt?: boolean }

/** What the last build of the addons came to; build.ts leaves it beside its log. A reason ends with what to do. */
export type BuildStatus = Partial<Record<AddonName, { built: boolean, reason?: string }>>

export const statusFile = (root: string) => join(root, 'build', 'native-status.json')

/** Milliseconds for trying an addon. It takes 50; gigabytes of GPU libraries on a cold disk take much longer. */
const probeTimeout = 30_000
/** Characters of an error that are shown. */
const longestError = 500

/** Finds engine.node. Never throws for an addon that is missing or does not load: the reason says what to do. */
export const findEngineAddon = (): Promise<FoundAddon> => findAddon('engine')
/** Finds auth.node, as `findEngineAddon` does. */
export const findAuthAddon = (): Promise<FoundAddon> => findAddon('auth')

/** @throws {Error} with the reason that `findEngineAddon` gives. */
export const loadEngineAddon = (): Promise<EngineAddon> => loadAddon('engine')

/** @throws {Error} with the reason that `findAuthAddon` gives. */
export async function loadAuthAddon (): Promise<AuthAddon> {
  const addon = await loadAddon<AuthAddon>('auth')
  keepChildSignal()
  return addon
}

/** `findAuthAddon` and `findEngineAddon` for the package in `root`; `timeout` in milliseconds. */
export async function findAddon (
  name: AddonName, { root = packageRoot, timeout = probeTimeout } = {}
): Promise<FoundAddon> {
  const { version } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8')) as { version: string }
  const errors: string[] = []
  for (const path of [join(root, 'build', 'Release', `${name}.node`), join(root, `${name}.node`)]) {
    const probe = await probeOnce(path, timeout)
    if (probe === undefined) continue
    if ('error' in probe) errors.push(`${path}: ${probe.error}`)
    else if (probe.version === version) return { ok: true, path, version }
    else errors.push(`${path}: it was built for release ${probe.version}, and this is ${version}`)
  }
  const again = `Type \`npm run build:native\` in ${root}`
  if (errors.length > 0) {
    const reason = `${name}.node cannot be used. ${errors.join('; ')}. ${again} to build it again.`
    return { ok: false, isBuilt: true, reason }
  }
  const reason = (await lastBuild(root))[name]?.reason
  return { ok: false, reason: `${name}.node is not built${reason ? `: ${reason}` : `. ${again}.`}` }
}

async function loadAddon<T extends Addon> (name: AddonName): Promise<T> {
  const found = await findAddon(name)
  if (!found.ok) throw new Error(found.reason)
  return createRequire(import.meta.url)(found.path) as T
}

/** What build.ts wrote last; empty when it never ran. */
export async function lastBuild (root: string): Promise<BuildStatus> {
  try {
    return JSON.parse(await readFile(statusFile(root), 'utf8')) as BuildStatus
  } catch {
    return {} // a file that can't be read says no more than one that isn't there
  }
}

type Probe = { version: string } | { error: string }
const probes = new Map<string, Promise<Probe>>()

/** undefined when there is no file. One that has not changed is tried once in the life of the process. */
async function probeOnce (path: string, timeout: number): Promise<Probe | undefined> {
  const stats = await stat(path).catch(() => undefined)
  if (stats === undefined) return undefined
  const key = `${path}\n${stats.ino}\n${stats.size}\n${stats.mtimeMs}`
  let probe = probes.get(key)
  if (probe === undefined) probes.set(key, probe = tryAddon(path, timeout))
  return probe
}

/** Processors by the number that an ELF file has for them. */
const elfMachines = new Map([
  [3, 'ia32'],
  [21, 'ppc64'],
  [22, 's390x'],
  [40, 'arm'],
  [62, 'x64'],
  [183, 'arm64'],
  [243, 'riscv64'],
  [258, 'loong64']
])

async function tryAddon (path: string, timeout: number): Promise<Probe> {
  // glibc says of a file for another processor that it does not exist.
  const header = await firstBytes(path).catch(() => Buffer.alloc(20)) // the child says why it cannot be read
  const machine = header.toString('latin1', 0, 4) === '\x7fELF' ? elfMachines.get(header.readUInt16LE(18)) : undefined
  if (machine !== undefined && machine !== process.arch) {
    return { error: `it was built for ${machine} processors, and this one is ${process.arch}` }
  }
  const probe = await probeInChild(path, timeout)
  return 'error' in probe ? { error: probe.error.replaceAll(`${path}: `, '').replace(/\.$/, '') } : probe
}

/** The first 20 bytes, filled up with zeros. */
async function firstBytes (path: string): Promise<Buffer> {
  const header = Buffer.alloc(20)
  const file = await open(path)
  try {
    await file.read(header)
  } finally {
    await file.close()
  }
  return header
}

/** Its last line is the answer, whatever the addon printed before and however the process ends after. */
const probeScript = `
  let answer
  try {
    const version = require(process.argv[1]).version
    answer = typeof version === 'string' ? { version } : { error: 'it is not an addon of this package' }
  } catch (error) {
    answer = { error: error.message.slice(0, ${longestError}) }
  }
  require('fs').writeSync(1, '\\n' + JSON.stringify(answer))
  process.exit()`

/** A wrong binary does not throw, it ends the process; so that process is not this one. */
function probeInChild (path: string, timeout: number): Promise<Probe> {
  return new Promise((resolve) => {
    execFile(process.execPath, ['-e', probeScript, path], {
      // What is preloaded here (a TypeScript loader, a debugger) has no business there and takes time.
      env: { ...process.env, NODE_OPTIONS: '' },
      timeout,
      killSignal: 'SIGKILL',
      maxBuffer: 1 << 20
    }, (failure, stdout, stderr) => {
      const line = stdout.slice(stdout.lastIndexOf('\n') + 1)
      if (line.startsWith('{')) return resolve(JSON.parse(line) as Probe)
      const words = stderr.trim().split('\n')[0]!.slice(0, longestError)
      const how = failure?.killed
        ? `it did not load within ${timeout / 1000} seconds`
        : `loading it ends the process (${failure?.signal ?? `exit code ${failure?.code ?? 0}`})`
      resolve({ error: words === '' ? how : `${how}: ${words}` })
    })
  })
}

/**
 * auth.node puts Node's SIGCHLD handler back where pam_unix has removed it (native/auth/pam_check.cc), but Node has one
 * only while it has a child or a listener. So there is a listener.
 */
let childSignalKept = false
function keepChildSignal (): void {
  if (childSignalKept || !isMainThread) return
  childSignalKept = true
  process.on('SIGCHLD', () => {})
}
