import { homedir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { environmentName, optionNames, optionTable, type Options } from '../../../lib/options/options.ts'
import { camelCase, resolveOptions, traceOptions } from '../../../lib/options/resolve.ts'

t.test('defaults are frozen and complete', async t => {
  const options = resolveOptions({})
  t.equal(options.port, 8080)
  t.equal(options.host, '127.0.0.1')
  t.equal(options.auth, 'none')
  t.equal(options.jwtSecret, undefined)
  t.throws(() => { (options as { port: number }).port = 1 })
  t.equal(Object.keys(options).length, Object.keys(optionTable).length)
})

t.test('command line over environment over file over defaults', async t => {
  const file = { name: 'config.yaml', values: { port: 1, host: 'file', auth: 'jwt' } }
  const environment = { SDREST_PORT: '2', SDREST_HOST: 'environment', PATH: '/bin' }
  const options = resolveOptions({ commandLine: { port: '3' }, environment, file })
  t.match(options, { port: 3, host: 'environment', auth: 'jwt', threads: 0 })
})

t.test('every kind of value is read', async t => {
  const options = resolveOptions({
    commandLine: { 'models-dir': ['/a,b', '/c'], 'public-paths': '/api/models, !/api/status', verbose: true },
    environment: { SDREST_LORA_DIR: '/x:/y', SDREST_ENABLE_GUEST_ACCESS: 'true' },
    file: { name: 'c.json', values: { 'guest-permissions': ['generate'], 'max-steps': 10 } }
  })
  t.same(options.modelsDir, ['/a,b', '/c'], 'a folder may have a comma in its name')
  t.same(options.publicPaths, ['/api/models', '!/api/status'])
  t.same(options.loraDir, ['/x', '/y'])
  t.equal(resolveOptions({ commandLine: { port: ['1', '2'] } }).port, 2, 'the last one counts')
  t.match(options, { verbose: true, enableGuestAccess: true, guestPermissions: ['generate'], maxSteps: 10 })
})

t.test('a wrong value names the option, its source, what was expected and what came', async t => {
  const message = (sources: Parameters<typeof resolveOptions>[0]) => {
    try {
      resolveOptions(sources)
    } catch (error) {
      t.match(error, { name: 'CommandError', exitCode: 2 })
      return (error as Error).message
    }
    return 'accepted'
  }
  t.equal(message({ commandLine: { port: '80x' } }), 'Expected a whole number from 0 to 65535 for --port but received "80x"')
  t.equal(message({ environment: { SDREST_PORT: '70000' } }), 'Expected a whole number from 0 to 65535 for SDREST_PORT but received "70000"')
  t.equal(message({ file: { name: 'c.yaml', values: { port: 1.5 } } }), 'Expected a whole number from 0 to 65535 for port in c.yaml but received 1.5')
  t.match(message({ commandLine: { auth: 'ldap' } }), /Expected one of none, jwt, api-key, unix, pam, optional for --auth but received "ldap"/)
  t.match(message({ commandLine: { verbose: 'maybe' } }), /true or false/)
  t.match(message({ commandLine: { 'guest-permissions': 'generate,fly' } }), /Expected one of .*generate.* but received "generate,fly"/)
  t.match(message({ commandLine: { host: 'x'.repeat(300) } }), /at most 253 characters/)
  t.match(message({ file: { name: 'c.yaml', values: ['port'] } }), /Expected an object with options in c.yaml/)
  t.notMatch(message({ commandLine: { 'jwt-secret': 'hush'.repeat(500) } }), /hush/, 'a secret is not repeated')
})

t.test('a misspelt option is an error that names the nearest one', async t => {
  t.throws(() => resolveOptions({ commandLine: { 'model-dir': 'x' } }), { message: 'There is no option --model-dir; did you mean --models-dir?' })
  t.throws(() => resolveOptions({ environment: { SDREST_PROT: '1' } }), { message: /SDREST_PROT; did you mean the environment variable SDREST_PORT/ })
  t.throws(() => resolveOptions({ file: { name: 'c.yaml', values: { jwt_secret: 'x' } } }), { message: /jwt_secret in c.yaml; did you mean jwt-secret in c.yaml/ })
  t.throws(() => resolveOptions({ commandLine: { zzzzzzzz: '1' } }), { message: 'There is no option --zzzzzzzz' })
})

t.test('environment names', async t => {
  t.equal(environmentName('jwt-secret-file'), 'SDREST_JWT_SECRET_FILE')
})

t.test('~ is the home folder in every path and from every source; that of another user is refused', async t => {
  const paths = optionNames.filter(name => ['path', 'paths'].includes(optionTable[name].kind))
  t.same(optionNames.filter(name => /(-dir|-file|^tls-.*)$/.test(name) && !paths.includes(name)), [], 'what names a file is a path')
  for (const name of paths) {
    const sources = (value: string) => [
      { commandLine: { [name]: value } }, { environment: { [environmentName(name)]: value } }, { file: { name: 'c.yaml', values: { [name]: value } } }
    ]
    const read = (source: Parameters<typeof resolveOptions>[0]) =>
      [resolveOptions(source)[camelCase(name) as keyof Options]].flat()
    for (const source of sources('~/x y')) t.same(read(source), [join(homedir(), 'x y')], name)
    for (const source of sources('~')) t.same(read(source), [homedir()])
    for (const source of sources('/a/~/b~')) t.same(read(source), ['/a/~/b~'])
    for (const source of sources('~ann/x')) t.throws(() => resolveOptions(source), { exitCode: 2, message: /without the home folder of another user .* but received "~ann\/x"/ })
  }
})

t.test('a host is an address or a name, and what else was given is said', async t => {
  for (const [given, host] of [['[::1]', '::1'], ['::', '::'], ['0.0.0.0', '0.0.0.0'], ['localhost', 'localhost'], ['fe80::1%eth0', 'fe80::1%eth0'], ['my_host.lan.', 'my_host.lan.']]) {
    t.equal(resolveOptions({ commandLine: { host: given } }).host, host)
  }
  for (const [given, hint] of [
    ['127.0.0.1:9999', '--host 127.0.0.1 --port 9999'], ['http://127.0.0.1', '--host 127.0.0.1)'], ['https://x.lan:8443/a', '--host x.lan --port 8443'],
    ['[::1]:8080', '--host ::1 --port 8080'], ['127.1', '--host 127.0.0.1)'], ['*', '--host 127.0.0.1)'], ['a b', '--host 127.0.0.1)'], ['999.1.1.1', '--host 127.0.0.1)'], ['[x]', '--host 127.0.0.1)']
  ] as const) t.throws(() => resolveOptions({ environment: { SDREST_HOST: given } }), { exitCode: 2, message: new RegExp(`^Expected an address .*${hint.replace(')', '\\)')}.* for SDREST_HOST but received`) }, given)
})

t.test('an empty variable counts as none, as composed files leave them; an empty value elsewhere is refused', async t => {
  const names = optionNames.filter(name => !['list', 'paths'].includes(optionTable[name].kind))
  const { options, origins } = traceOptions({ environment: Object.fromEntries(names.map(name => [environmentName(name), ''])) })
  t.same(options, resolveOptions({}))
  t.equal(origins.size, 0)
  t.same(resolveOptions({ environment: { SDREST_GUEST_PERMISSIONS: '' } }).guestPermissions, [], 'an empty list is one')
  for (const name of names) t.throws(() => resolveOptions({ commandLine: { [name]: '' } }), { exitCode: 2, message: new RegExp(`Expected .* for --${name} but received`) })
})
