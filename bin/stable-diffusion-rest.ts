#!/usr/bin/env node
import * as module from 'node:module'
import { homedir } from 'node:os'
import { join } from 'node:path'

// Node.js 22.8 and later can keep compiled code for the next start. Not in the shared temporary folder, which is its
// default: what another user puts there would run here.
const cache = join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'stable-diffusion-rest')
;(module as { enableCompileCache?: (folder: string) => void }).enableCompileCache?.(cache)

if (process.argv.length === 3 && process.argv[2] === '--version') {
  const { version } = await import('../lib/util/version.ts')
  process.stdout.write(`${version}\n`)
} else {
  const { runCommandLine } = await import('./command-line.ts')
  await runCommandLine()
}
