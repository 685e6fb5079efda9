import { CommandError, exitCodes } from '../../../errors.ts'
import { AllowList } from '../../network/allow-list.ts'
import { hostOf, portOf } from '../../network/checked-lookup.ts'
import { checkProxies } from '../../network/proxy.ts'
import type { Options } from '../../options/options.ts'
import type { ModelRoot } from '../roots.ts'
import type { StagingArea } from '../files/staging.ts'
import { Puller } from './pull.ts'
import { readTokens } from './tokens.ts'

type PullOptions = Pick<Options, 'pullHosts' | 'maxPullSize' | 'hfEndpoint' | 'hfToken' | 'pullTokensFile'>

/** @throws {CommandError} (usage, storage) for a wrong host, address, token, or proxy of the environment. */
export function configurePuller (
  options: PullOptions, { roots, staging }: { roots: readonly ModelRoot[], staging: StagingArea }
): Puller {
  checkProxies()
  const hosts = new AllowList(options.pullHosts, '--pull-hosts')
  const hub = hubOf(options.hfEndpoint, hosts)
  return new Puller({
    roots,
    staging,
    hosts,
    hub,
    tokens: readTokens({ hub, hubToken: options.hfToken, file: options.pullTokensFile }),
    mostBytes: options.maxPullSize * 1024 * 1024
  })
}

function hubOf (address: string, hosts: AllowList): URL {
  const url = URL.canParse(address) ? new URL(address) : undefined
  const isHttp = url?.protocol === 'http:' && hosts.has(hostOf(url), portOf(url))
  if (
    url !== undefined && (url.protocol === 'https:' || isHttp) &&
    url.username === '' && url.password === '' && url.search === '' && url.hash === ''
  ) return url
  throw new CommandError(exitCodes.usage,
    'Expected an https URL without user name, query and fragment for --hf-endpoint ' +
    `(or an http one whose host is in --pull-hosts) but received ${JSON.stringify(address)}`)
}
