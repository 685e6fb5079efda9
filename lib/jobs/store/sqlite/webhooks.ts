import { whenFree } from '../../../storage/storage-errors.ts'
import type { DueWebhook, WebhookOutbox } from '../job-store.ts'
import type { Statements } from './statements.ts'

export class SqliteWebhooks implements WebhookOutbox {
  readonly #statements: Statements

  constructor (statements: Statements) {
    this.#statements = statements
  }

  async dueCallers (now: number): Promise<string[]> {
    const rows = this.#statements.callersWithDueWebhooks.all({ now }) as Array<{ caller: string }>
    return rows.map(({ caller }) => caller)
  }

  async due (caller: string, now: number, limit: number): Promise<DueWebhook[]> {
    return this.#statements.dueWebhooks.all({ caller, now, limit }) as unknown as DueWebhook[]
  }

  async nextDue (now: number): Promise<number | undefined> {
    return (this.#statements.nextWebhook.get({ now }) as { due_at: number | null }).due_at ?? undefined
  }

  async postpone (sequence: number, dueAt: number): Promise<void> {
    await whenFree(() => this.#statements.postponeWebhook.run({ sequence, due_at: dueAt }))
  }

  async remove (sequence: number): Promise<void> {
    await whenFree(() => this.#statements.forgetWebhook.run({ sequence }))
  }
}
