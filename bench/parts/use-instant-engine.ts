import childProcess from 'node:child_process'
import { syncBuiltinESMExports } from 'node:module'
import { fileURLToPath } from 'node:url'

/** Loaded into a server ahead of its own modules: every process with a fourth pipe is its engine, and is replaced. */
const { spawn } = childProcess
const instant = fileURLToPath(new URL('./instant-engine.js', import.meta.url))

childProcess.spawn = ((file: string, parameters: string[], options: { stdio?: unknown }) =>
  Array.isArray(options.stdio) && options.stdio.length === 4
    ? spawn(process.execPath, [instant], options as object)
    : spawn(file, parameters, options as object)) as typeof spawn
syncBuiltinESMExports()
