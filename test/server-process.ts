import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Test } from 'tap'
import { packageRoot } from '../lib/util/package-root.ts'

export const program = join(packageRoot, 'dist', 'bin', 'stable-diffusion-rest.js')

export interface CommandResult {
  code: number | null
  stdout: string
  stderr: string
}

export interface Ended extends CommandResult {
  signal: NodeJS.Signals | null
}

export const environment = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('SDREST_') && !name.startsWith('TAP')))

/** Runs a command of the built program to its end. */
export async function runProgram (parameters: string[], { input = '', env = {} }: { input?: string, env?: Record<string, string> } = {}): Promise<Ended> {
  const child = spawn(process.execPath, [program, ...parameters], { env: { ...environment, ...env }, timeout: 60_000 })
  child.stdin.on('error', () => {}) // a program that refuses its options does not read
  child.stdin.end(input)
  return await collect(child)
}

/**
 * Runs command lines of the built program that end soon, one after another in one process: most of the time of a start
 * goes into loading the program. That the process ends says that none has left anything open.
 */
export async function runCommandLines (
  commandLines: string[][], env: Record<string, string> = {}
): Promise<CommandResult[]> {
  const file = join(packageRoot, 'dist', 'test', 'fixtures', 'command-lines.js')
  const child = spawn(process.execPath, [file, JSON.stringify(commandLines)], {
    env: { ...environment, ...env }, timeout: 60_000
  })
  child.stdin.end()
  const { code, signal, stdout, stderr } = await collect(child)
  if (code !== 0) throw new Error(`The command lines ended with ${code ?? signal}: ${stderr}`)
  return JSON.parse(stdout.trimEnd().split('\n').at(-1)!) as CommandResult[]
}

async function collect (child: ChildProcess): Promise<Ended> {
  const ended = { stdout: '', stderr: '' }
  child.stdout!.setEncoding('utf8').on('data', (text: string) => { ended.stdout += text })
  child.stderr!.setEncoding('utf8').on('data', (text: string) => { ended.stderr += text })
  const [code, signal] = await once(child, 'close') as [number | null, NodeJS.Signals | null]
  return { code, signal, ...ended }
}

export interface RunningServer {
  url: string
  child: ChildProcess
  /** The lines of its log so far. */
  log: Array<Record<string, unknown>>
  /** Sends the signal and waits for the end. */
  end: (signal?: NodeJS.Signals) => Promise<{ code: number | null, signal: NodeJS.Signals | null }>
  json: <Body = any>(path: string, init?: RequestInit & { body?: string }) => Promise<{ status: number, body: Body }>
}

/** Polling as fast as these tests do would meet the rate limit. */
const testing = ['--port', '0', '--engine', 'portable', '--threads', '1', '--rate-limit', '1000000']

/**
 * Starts the built server on a free loopback port, as a user would, and waits until it listens.
 * @param launcher a command that becomes the server.
 */
export async function startServer (
  t: Test,
  parameters: string[],
  { env = {}, program: other = program, launcher = [] }: {
    env?: Record<string, string>
    program?: string
    launcher?: string[]
  } = {}
): Promise<RunningServer> {
  const [file, ...rest] = [...launcher, process.execPath, other, ...testing, ...parameters] as [string, ...string[]]
  const child = spawn(file, rest, { env: { ...environment, ...env } })
  const exited = once(child, 'exit') as Promise<[number | null, NodeJS.Signals | null]>
  t.teardown(async () => {
    child.kill('SIGKILL')
    await exited
  })
  let stderr = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => { stderr += text })
  const log: RunningServer['log'] = []
  const url = await new Promise<string>((resolve, reject) => {
    createInterface({ input: child.stdout }).on('line', line => {
      const entry = JSON.parse(line) as { msg: string }
      log.push(entry)
      const [found] = /https?:\/\/\S+:\d+/.exec(entry.msg.startsWith('Server listening') ? entry.msg : '') ?? []
      if (found !== undefined) resolve(found)
    })
    exited.then(([code]) => reject(new Error(`The server ended with ${code}: ${stderr}`)), reject)
  })
  return {
    url,
    child,
    log,
    async end (signal = 'SIGTERM') {
      child.kill(signal)
      const [code, by] = await exited
      return { code, signal: by }
    },
    async json (path, init = {}) {
      const response = await fetch(url + path, {
        ...init, headers: { ...(init.body !== undefined && { 'content-type': 'application/json' }), ...init.headers as Record<string, string> }
      })
      const text = await response.text()
      return { status: response.status, body: text === '' ? undefined : JSON.parse(text) }
    }
  }
}

/** The processes that a process has started and that live. */
export function childrenOf (pid: number): number[] {
  const { stdout } = spawnSync('ps', ['-o', 'pid=', '--ppid', String(pid)], { encoding: 'utf8' })
  return stdout.trim().split(/\s+/).filter(word => word !== '').map(Number)
}

/** Asks until `check` gives something, less and less often, because asking takes processor time from the work. */
export async function until<T> (check: () => Promise<T | undefined | false>, milliseconds = 30_000): Promise<T> {
  const begin = Date.now()
  for (;;) {
    const found = await check()
    if (found !== undefined && found !== false) return found
    const elapsed = Date.now() - begin
    if (elapsed > milliseconds) throw new Error(`Nothing came within ${milliseconds} ms`)
    await new Promise(resolve => setTimeout(resolve, Math.min(Math.max(20, elapsed / 10), 100)))
  }
}
