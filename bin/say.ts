/** A line on standard output: what a command was asked for. */
export function say (message: string): void {
  process.stdout.write(`${message}\n`)
}
