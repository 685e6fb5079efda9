import { exitCodes } from '../../errors.ts'
import { visible } from '../../lib/util/text.ts'

let isFirst = true
let isLost = false

/**
 * A line on standard output: what a command was asked for. When it can't be written, because the reader has seen enough
 * (`… | head -1`) or the disk is full, the command goes on and prints no more: it finishes and tidies up what it has
 * begun, and its exit code says what happened.
 */
export function say (message: string): void {
  write(visible(message))
}

/** An image for the terminal, which is made of escape sequences. */
export function sayImage (sequences: string): void {
  write(sequences)
}

function write (message: string): void {
  if (isFirst) process.stdout.on('error', lose)
  isFirst = false
  if (!isLost) process.stdout.write(`${message}\n`)
}

function lose (error: NodeJS.ErrnoException): void {
  if (!isLost && error.code !== 'EPIPE') {
    process.stderr.write(`stable-diffusion-rest: What was asked for cannot be printed: ${error.message}\n`)
  }
  isLost = true
  process.exitCode = error.code === 'EPIPE' ? exitCodes.closed_pipe : exitCodes.storage
}
