import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Test } from 'tap'
import { packageRoot } from '../lib/util/package-root.ts'
import { workspace } from './helper.ts'
import { environment, program, until } from './server-process.ts'

/**
 * Runs the commands of a page of the docs as a reader would type them, one block after the other, in one shell.
 *
 * - ```` ```sh ```` blocks are run and must succeed. A block that is nothing but `stable-diffusion-rest` with options
 *   starts a server, in place of the one before, and lets the page go on once it listens. `:8080` and `:8443` in what
 *   follows are its port.
 * - A block without a language, or ```` ```json ````, right below is what the commands print. With it they may fail, if
 *   that is what it shows: it then begins with `stable-diffusion-rest: `.
 * - A ```` ```log ```` block holds lines that are in the log of the server by then.
 * - `…` in these stands for anything. Of an object in JSON the page may leave fields out.
 * - Blocks of any other language are left to tests of their own; `blocksOf` finds them.
 */
export interface PageOptions {
  /** What the page says → what stands for it here, above all folders of the system. */
  replace?: Record<string, string>
  /** What replaces programs that a test must not run: name → lines of sh. `$SERVER_PID` is the running server. */
  programs?: Record<string, string>
  env?: Record<string, string>
  /** Headings under which nothing can be run here → why. */
  skip?: Record<string, string | false>
}

export interface Block {
  language: string
  text: string
  /** Line of the page on which its text begins. */
  line: number
  /** The heading that it stands under. */
  heading: string
  /** Whether nothing but white space is between it and the block before. */
  follows: boolean
}

export function blocksOf (file: string): Block[] {
  const page = readFileSync(join(packageRoot, file), 'utf8')
  let end = 0
  return [...page.matchAll(/^```(\w*)\n([\s\S]*?)^```$/gm)].map(({ 0: all, 1: language, 2: text, index }) => {
    const follows = end > 0 && page.slice(end, index).trim() === ''
    end = index + all.length
    const heading = [...page.slice(0, index).matchAll(/^#+ (.*)$/gm)].at(-1)?.[1] ?? ''
    return { language: language!, text: text!, line: page.slice(0, index).split('\n').length + 1, heading, follows }
  })
}

/** Milliseconds for one block. */
const timeout = 60_000

/** Milliseconds until a line is in the log. */
const logTimeout = 15_000

/** Put in front of what the page says, and behind it: the least that lets tests run side by side, on loopback only. */
const testing = { before: '--engine portable --threads 1', after: '--port 0 --host 127.0.0.1' }

/** A server, with or without `serve`, whatever variables are set for it; the first group stands before the program. */
const startsServer = /^((?:\w+=\S* )*(?:npx )?)stable-diffusion-rest(?: serve)?(?= -|$)/

/** Runs the page; `folder` is the home of who typed all this. */
export async function runPage (t: Test, file: string, options: PageOptions = {}): Promise<{ folder: string }> {
  const { folder, models } = workspace(t)
  const shell = openShell(t, folder, options)
  const replace = { '/data/SD_MODELS': models, ...options.replace }
  const blocks = blocksOf(file)
  t.ok(blocks.some(({ language }) => language === 'sh'), `${file} has commands`)
  let server: Server | undefined
  for (const [index, { language, text, line, heading }] of blocks.entries()) {
    const name = `${file}:${line}`
    const reason = options.skip?.[heading]
    if (reason !== undefined && reason !== false) {
      t.pass(name, { skip: reason })
      continue
    }
    if (language === 'log') {
      await seesLog(t, name, text, server)
      continue
    }
    if (language !== 'sh') continue
    const next = blocks[index + 1]
    const expected = next?.follows && ['', 'json'].includes(next.language) ? next : undefined
    const commands = replaced(text, { ...replace, ...(server && { ':8080': `:${server.port}`, ':8443': `:${server.port}` }) })
    const single = commands.replace(/\\\n\s*/g, '').trim()
    let output: string
    if (startsServer.test(single) && !single.includes('\n')) {
      await server?.end()
      server = undefined
      const started = await shell.start(single, isFailure(expected))
      if (typeof started === 'string') output = started
      else [server, output] = [started, '']
      if (server === undefined && !isFailure(expected)) throw new Error(`${name} did not start: ${output}`)
    } else {
      output = await shell.run(name, commands, isFailure(expected))
    }
    if (expected !== undefined) check(t, name, { ...expected, text: replaced(expected.text, replace) }, output)
    else t.pass(name)
  }
  return { folder }
}

const isFailure = (expected: Block | undefined) => expected?.text.startsWith('stable-diffusion-rest: ') ?? false

function replaced (text: string, replace: Record<string, string>): string {
  return Object.entries(replace).reduce((text, [from, to]) => text.replaceAll(from, to), text)
}

function check (t: Test, name: string, { language, text }: Block, output: string): void {
  if (language !== 'json') t.match(output.trim(), pattern(text.trim(), true), `${name} prints what the page shows`)
  else t.match(JSON.parse(output), JSON.parse(text, (_key, value) => typeof value === 'string' ? pattern(value, true) : value), `${name} answers what the page shows`)
}

/** @param isWhole from the first to the last character */
function pattern (text: string, isWhole: boolean): RegExp {
  const source = text.split('…').map(part => part.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&')).join('[^]*?')
  return new RegExp(isWhole ? `^${source}$` : source)
}

async function seesLog (t: Test, name: string, text: string, server: Server | undefined): Promise<void> {
  if (server === undefined) throw new Error(`${name} shows a log, and no server runs`)
  for (const line of text.trim().split('\n')) {
    const wanted = pattern(line, false)
    await until(async () => server.log().split('\n').some(line => wanted.test(line)), logTimeout)
      .catch(() => t.match(server.log(), wanted, `${name} is in the log`))
    t.pass(`${name} is in the log`)
  }
}

interface Server {
  port: string
  log: () => string
  end: () => Promise<void>
}

interface Shell {
  /** Runs a block to its end; what it prints. */
  run: (name: string, commands: string, mayFail: boolean) => Promise<string>
  /** Starts a server; what it printed, its log left out, when it ended instead. */
  start: (command: string, mayFail: boolean) => Promise<Server | string>
}

/** One bash for the whole page, so that its variables live on. */
function openShell (t: Test, folder: string, { programs = {}, env = {} }: PageOptions): Shell {
  const [bin, work] = [join(folder, 'bin'), join(folder, 'work')]
  for (const path of [bin, work]) mkdirSync(path)
  const ours = `if [ -n "$STARTS_SERVER" ]; then exec '${process.execPath}' '${program}' ${testing.before} "$@" $STARTS_SERVER; fi\nexec '${process.execPath}' '${program}' "$@"`
  for (const [name, lines] of Object.entries({ 'stable-diffusion-rest': ours, npx: `shift\n${ours}`, ...programs })) {
    writeFileSync(join(bin, name), `#!/bin/sh\n${lines}\n`)
    chmodSync(join(bin, name), 0o755)
  }
  const bash = spawn('bash', ['--noprofile', '--norc', '-euo', 'pipefail'], {
    cwd: work, env: { ...environment, HOME: folder, PATH: `${bin}:${process.env.PATH}`, ...env }, stdio: ['pipe', 'pipe', 'inherit']
  })
  const exited = once(bash, 'exit')
  let server: Server | undefined
  t.teardown(async () => {
    await server?.end()
    bash.kill('SIGKILL')
    await exited
  })
  const lines = createInterface({ input: bash.stdout })[Symbol.asyncIterator]()
  let count = 0

  /** Has bash read a command; resolves with the line that it prints. */
  async function ask (command: string): Promise<string> {
    bash.stdin.write(`${command}\n`)
    const timer = setTimeout(() => bash.kill('SIGKILL'), timeout)
    const { value, done } = await lines.next()
    clearTimeout(timer)
    if (done === true) throw new Error('The shell has ended')
    return value
  }

  function block (commands: string): { script: string, output: string } {
    const files = { script: join(folder, `${++count}.sh`), output: join(folder, `${count}.out`) }
    writeFileSync(files.script, commands)
    return files
  }

  return {
    async run (name, commands, mayFail) {
      const { script, output } = block(commands)
      // Not in a subshell, whose variables would be lost, so a failure ends the shell, and nothing can run after it.
      const line = mayFail ? `( source '${script}' ) > '${output}' 2>&1 < /dev/null && echo 0 || echo 1` : `source '${script}' > '${output}' 2>&1 < /dev/null; echo 0`
      const failed = await ask(line).catch(() => '1')
      const text = existsSync(output) ? readFileSync(output, 'utf8') : ''
      if (mayFail !== (failed === '1')) throw new Error(`${name} ${mayFail ? 'did not fail' : 'failed'}:\n${commands}\n${text}`)
      return text
    },
    async start (command, mayFail) {
      // What the page says of the address may be what it fails for.
      const after = mayFail ? '' : testing.after
      const { script, output } = block(command.replace(startsServer, (_all, before: string) => `STARTS_SERVER='${after} ' ${before.replace('npx ', '')}exec stable-diffusion-rest`))
      const pid = Number(await ask(`( source '${script}' ) > '${output}' 2>&1 < /dev/null & export SERVER_PID=$!; echo $SERVER_PID`))
      const log = () => existsSync(output) ? readFileSync(output, 'utf8') : ''
      const port = await until(async () => /Server listening at https?:\/\/\S+?:(\d+)/.exec(log())?.[1] ?? (isAlive(pid) ? undefined : 'none'), timeout)
      if (port === 'none') return log().replace(/^\{.*\n/gm, '')
      return (server = {
        port,
        log,
        async end () {
          if (isAlive(pid)) process.kill(pid, 'SIGTERM')
          await until(async () => !isAlive(pid), timeout)
        }
      })
    }
  }
}

function isAlive (pid: number): boolean {
  try {
    process.kill(pid, 0)
    return !/^State:\s+Z/m.test(existsSync(`/proc/${pid}/status`) ? readFileSync(`/proc/${pid}/status`, 'utf8') : '')
  } catch {
    return false // the answer, not a failure
  }
}
