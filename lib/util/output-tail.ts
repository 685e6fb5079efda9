import { visibleField } from './text.ts'

/** Lines kept, and characters of each. */
const mostLines = 40
const longestLine = 500

/** A line with the reason of a crash: a place in C++ sources, or a word of assertions, errors and exceptions. */
const crashLine = /\.(?:c|cc|cpp|cu|cuh|h|hpp|m|mm):\d+: |assert|fatal|abort|terminate called|what\(\)|exception|error/i

/** Folders of the machine that built the engine, before the name of a source file. A name has 255 characters. */
const buildFolders = /(?:[A-Za-z]:)?(?:[\\/][^\\/\s:]{1,255}){1,50}[\\/](?=[^\\/\s:]{1,255}:\d)/

/** The last lines that a process writes, in bounded memory. */
export class OutputTail {
  #lines: string[] = []
  #rest = ''

  add (chunk: Uint8Array): void {
    // Progress bars return to the start of their line and do not end it.
    const pieces = (this.#rest + Buffer.from(chunk).toString()).split(/[\r\n]+/)
    this.#rest = pieces.pop()!.slice(-longestLine)
    for (const piece of pieces.slice(-mostLines)) this.#keep(piece)
  }

  get lines (): string[] {
    const rest = visibleField(this.#rest.trim())
    return rest === '' ? [...this.#lines] : [...this.#lines, rest]
  }

  /** The last line that looks like the reason of a crash. */
  get crashReason (): string | undefined {
    return this.lines.findLast((line) => crashLine.test(line))?.replace(buildFolders, '')
  }

  #keep (line: string): void {
    const trimmed = visibleField(line.trim().slice(0, longestLine))
    if (trimmed === '') return
    this.#lines.push(trimmed)
    if (this.#lines.length > mostLines) this.#lines.shift()
  }
}
