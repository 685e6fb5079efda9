import { visibleField } from './text.ts'

/** Lines that are kept, and characters of each. */
const mostLines = 40
const longestLine = 500

/** What marks a line as the reason of a crash: a place in C++ sources, words of assertions, errors and exceptions. */
const complaint = /\.(?:c|cc|cpp|cu|cuh|h|hpp|m|mm):\d+: |assert|fatal|abort|terminate called|what\(\)|exception|error/i

/** The folders before the name of a source file, on the machine that built the engine. A name has 255 characters. */
const buildFolders = /(?:[A-Za-z]:)?(?:[\\/][^\\/\s:]{1,255}){1,50}[\\/](?=[^\\/\s:]{1,255}:\d)/

/** The end of what a process writes: however much it is, little of it stays in memory. */
export class OutputTail {
  #lines: string[] = []
  #rest = ''

  add (chunk: Uint8Array): void {
    // Progress bars return to the start of their line instead of ending it.
    const pieces = (this.#rest + Buffer.from(chunk).toString()).split(/[\r\n]+/)
    this.#rest = pieces.pop()!.slice(-longestLine)
    for (const piece of pieces.slice(-mostLines)) this.#keep(piece)
  }

  get lines (): string[] {
    const rest = visibleField(this.#rest.trim())
    return rest === '' ? [...this.#lines] : [...this.#lines, rest]
  }

  /** The last line that looks like the reason of a crash. */
  get complaint (): string | undefined {
    return this.lines.findLast((line) => complaint.test(line))?.replace(buildFolders, '')
  }

  #keep (line: string): void {
    const trimmed = visibleField(line.trim().slice(0, longestLine))
    if (trimmed === '') return
    this.#lines.push(trimmed)
    if (this.#lines.length > mostLines) this.#lines.shift()
  }
}
