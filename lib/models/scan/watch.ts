import { type FSWatcher, watch } from 'node:fs'

/** Milliseconds without an event that end a change: downloads write for minutes. */
const quietTime = 1000
/** Milliseconds after which a change is reported even if events go on. */
const longestWait = 15_000
/** Each watched folder takes one of the user's inotify watches (often 8192 in all). */
const maximumFolders = 2000

/**
 * Calls back after changes in the folders. Does not keep the process alive. Network file systems report no changes of
 * other machines, so they need a refresh.
 *
 * One watcher per folder: on Linux the recursive mode of fs.watch walks the tree itself and breaks on removed folders.
 */
export class FolderWatcher {
  readonly #onChange: () => void
  readonly #watchers = new Map<string, FSWatcher>()
  #timer: NodeJS.Timeout | undefined
  #waitingSince: number | undefined

  constructor (onChange: () => void) {
    this.#onChange = onChange
  }

  /**
   * Watches exactly these folders. A new folder counts as a change, because it may have changed since it was read.
   * @returns the number of folders that can't be watched.
   */
  follow (folders: readonly string[]): number {
    const wanted = new Set(folders.slice(0, maximumFolders))
    for (const folder of this.#watchers.keys()) if (!wanted.has(folder)) this.#forget(folder)
    const before = this.#watchers.size
    for (const folder of wanted) this.#add(folder)
    if (this.#watchers.size > before) this.#changed()
    return folders.length - this.#watchers.size
  }

  #add (folder: string): void {
    if (this.#watchers.has(folder)) return
    try {
      const watcher = watch(folder, { persistent: false }, () => this.#changed())
      this.#watchers.set(folder, watcher)
      watcher.on('error', () => {
        // The folder was removed.
        this.#forget(folder)
        this.#changed()
      })
    } catch (error) {
      // It was removed since the scan, or the user has no watches left; follow() counts these.
      if ((error as NodeJS.ErrnoException).code === undefined) throw error
    }
  }

  #forget (folder: string): void {
    this.#watchers.get(folder)?.close()
    this.#watchers.delete(folder)
  }

  #changed (): void {
    const now = performance.now()
    this.#waitingSince ??= now
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => {
      this.#waitingSince = undefined
      this.#onChange()
    }, Math.max(0, Math.min(quietTime, this.#waitingSince + longestWait - now)))
    this.#timer.unref()
  }

  close (): void {
    clearTimeout(this.#timer)
    for (const folder of this.#watchers.keys()) this.#forget(folder)
  }
}
