import { setTimeout as delay } from 'node:timers/promises'
import { auditEvents, auditOutcomes, type AuditRecord } from '../../lib/audit.ts'
import { visibleRow } from '../../lib/visible.ts'
import { accountCommand } from '../account-command.ts'
import { say } from '../say.ts'
import { CommandError, exitCodes } from '../../errors.ts'

interface Arguments {
  event?: string
  outcome?: string
  actor?: string
  lines: string
  follow: boolean
  json: boolean
}

/** Milliseconds between two looks with --follow. */
const interval = 500
const mostLines = 10_000

/** `audit`: who did what. */
export const audit = accountCommand<Arguments>({
  own: ['event', 'outcome', 'actor', 'lines', 'follow', 'json'],
  builder: yargs => yargs
    .option('event', { choices: auditEvents, describe: 'Only this kind of event' })
    .option('outcome', { choices: auditOutcomes, describe: 'Only what succeeded, or only what was refused' })
    .option('actor', { type: 'string', requiresArg: true, describe: 'Only what this user did' })
    .option('lines', { type: 'string', requiresArg: true, default: '50', describe: `The newest so many, 1 to ${mostLines}` })
    .option('follow', { type: 'boolean', default: false, describe: 'Go on with what happens next, until Ctrl-C' })
    .option('json', { type: 'boolean', default: false, describe: 'One JSON object a line' }),
  work: async ({ log }, { event, outcome, actor, lines, follow, json }) => {
    const limit = Number(lines)
    if (!Number.isInteger(limit) || limit < 1 || limit > mostLines) {
      throw new CommandError(exitCodes.usage, `Expected a whole number from 1 to ${mostLines} for --lines but received ${JSON.stringify(lines)}`)
    }
    let last = 0
    const showNewer = (count: number) => {
      for (const record of log.list({ event, outcome, actor, after: last, limit: count })) {
        say(json ? JSON.stringify(record) : line(record))
        last = record.id
      }
    }
    showNewer(limit)
    if (!follow) return
    for (;;) {
      await delay(interval)
      showNewer(mostLines)
    }
  }
})

function line ({ at, event, outcome, actor, subject, address, reason }: AuditRecord): string {
  return visibleRow([at, outcome, event, actor, subject ?? '-', address ?? '-', reason ?? ''])
}
