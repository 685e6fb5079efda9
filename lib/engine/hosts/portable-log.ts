import type { LogLevel } from '../protocol.ts'

const levels: LogLevel[] = ['error', 'warn', 'info', 'debug']
/** Errors and warnings that are kept, the newest. */
const mostComplaints = 12

/**
 * What the addon says only in its log: the architecture and the device of a model, the devices of the machine, and the
 * reasons of a failure.
 */
export class PortableLog {
  #architecture: string | undefined
  #devices: Array<{ name: string, description: string }> = []
  #backends: string[] = []
  #complaints: string[] = []
  #forward: ((level: LogLevel, text: string) => void) | undefined

  /** Before an operation whose traces are wanted; `forward` gets them line by line. */
  begin (forward: (level: LogLevel, text: string) => void): void {
    this.#forward = forward
    this.#architecture = undefined
    this.#backends = []
    this.#complaints = []
  }

  add (priority: number, message: string): void {
    const level = levels[priority] ?? 'debug'
    const text = message.trim().replace(/^[\w.-]+:\d+\s+- /, '')
    this.#architecture = /^Version: (.+)$/.exec(text)?.[1] ?? this.#architecture
    const backend = /^Initializing backend: (.+)$/.exec(text)?.[1]
    if (backend !== undefined) this.#backends.push(backend)
    const device = /^GGML backend device\[\d+\]: name='([^']*)', desc='([^']*)'/.exec(text)
    if (device !== null) this.#devices.push({ name: device[1]!, description: device[2]! })
    if (level === 'error' || level === 'warn') this.#complaints = [...this.#complaints, text].slice(-mostComplaints)
    this.#forward?.(level, text)
  }

  get architecture (): string | undefined {
    return this.#architecture
  }

  get devices (): Array<{ name: string, description: string }> {
    return this.#devices
  }

  /** The device that computes: the first one that is not the CPU, because parts of a model may stay there. */
  get device (): string | undefined {
    return this.#backends.find((name) => name !== 'CPU') ?? this.#backends[0]
  }

  /** Errors and warnings since `begin`, oldest first. */
  get complaints (): string[] {
    return this.#complaints
  }
}
