import { setImmediate as nextTurn, setTimeout as delay } from 'node:timers/promises'
import { auditEvents, auditOutcomes } from '../../lib/accounts/audit-events.ts'
import type { AuditRecord } from '../../lib/accounts/store/store.ts'
import { quoted, visibleRow } from '../../lib/util/text.ts'
import { accountCommand } from '../support/account-command.ts'
import { say } from '../support/say.ts'
import { CommandError, exitCodes } from '../../errors.ts'

interface Arguments {
  event?: string
  outcome?: string
  actor?: string
  lines: string
  after?: string
  before?: string
  all: boolean
  follow: boolean
  json: boolean
}

/** Milliseconds between two looks with --follow. */
const interval = 500
const mostLines = 10_000
/** Records that --all reads at once. */
const pageLength = 1000

/** `audit`: who did what. */
export const audit = accountCommand<Arguments>({
  own: {
    event: { choices: auditEvents, describe: 'Only this kind of event' },
    outcome: { choices: auditOutcomes, describe: 'Only what succeeded, or only what was refused' },
    actor: { type: 'string', describe: 'Only what this user did' },
    lines: { type: 'string', default: '50', describe: `The newest so many, 1 to ${mostLines}` },
    after: { type: 'string', describe: 'The oldest that came after the record with this id (--json shows ids)' },
    before: {
      type: 'string',
      conflicts: ['after', 'all', 'follow'],
      describe: 'The newest that came before the record with this id'
    },
    all: { type: 'boolean', default: false, describe: 'All records, for an export with --json' },
    follow: { type: 'boolean', default: false, describe: 'Go on with what happens next, until Ctrl-C' },
    json: { type: 'boolean', default: false, describe: 'One JSON object a line' }
  },
  work: async ({ log }, { event, outcome, actor, lines, after, before, all, follow, json }) => {
    const limit = wholeNumber('lines', lines, { most: mostLines })
    let last = after === undefined ? undefined : wholeNumber('after', after, { least: 0 })
    /** @returns how many there were */
    const show = async (page: { after?: number, before?: number, limit: number }) => {
      const records = await log.list({ event, outcome, actor, ...page })
      for (const record of records) say(json ? JSON.stringify(record) : line(record))
      last = records.at(-1)?.id ?? last
      return records.length
    }
    if (all) while (await show({ after: last ?? 0, limit: pageLength }) === pageLength) await nextTurn()
    else await show({ after: last, before: before === undefined ? undefined : wholeNumber('before', before), limit })
    if (!follow) return
    for (;;) {
      await delay(interval)
      await show({ after: last ?? 0, limit: mostLines })
    }
  }
})

function wholeNumber (option: string, text: string, { least = 1, most = Number.MAX_SAFE_INTEGER } = {}): number {
  const number = Number(text)
  if (/^\d{1,16}$/.test(text) && number >= least && number <= most) return number
  throw new CommandError(exitCodes.usage,
    `Expected a whole number from ${least} to ${most} for --${option} but received ${quoted(text)}`)
}

function line ({ at, event, outcome, actor, subject, address, reason }: AuditRecord): string {
  return visibleRow([at, outcome, event, actor, subject ?? '-', address ?? '-', reason ?? ''])
}
