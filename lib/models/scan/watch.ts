import { type FSWatcher, watch } from 'node:fs'

/** Milliseconds without an event after which a change counts as finished: downloads write for minutes. */
const quietTime = 1000
/** Milliseconds after which a change is reported although the events go on. */
const longestWait = 15_000
/** Each watched folder takes one of the user's inotify watches (often 8192 in all). */
const maximumFolders = 2000

/**
 * Calls back, some time after the last change, when something changed in one of the folders. Never keeps the process
 * alive. Network file systems tell nothing of what other machines do; there only a refresh helps.
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
   * Watches exactly these folders from now on. A folder that was read before it was watched may have changed between,
   * so each new one counts as a change. Returns how many of them can't be watched.
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
        // The folder is gone, which is a change like any other.
        this.#forget(folder)
        this.#changed()
      })
    } catch (error) {
      // Gone since the scan, or the user has no watches left; follow() tells how many are missing.
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
