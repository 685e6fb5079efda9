import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, closeSync, existsSync, mkdirSync, openSync, readdirSync, readFileSync, statSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { closeDatabase, openDatabase } from '../../lib/storage/database.ts'
import { lock } from '../../lib/storage/lock.ts'
import { workspace } from '../helper.ts'
import { environment, program, runCommandLines, runProgram, type CommandResult } from '../server-process.ts'

t.test('a start that fails prints one line and an exit code, and --check-config prints the same', async t => {
  const { folder, models, data } = workspace(t, { models: false })
  writeFileSync(join(folder, 'file'), '')
  const open = join(folder, 'open')
  mkdirSync(open)
  chmodSync(open, 0o777)
  writeFileSync(join(folder, 'nested.yaml'), 'auth: jwt\nport: 1: 2\n')
  writeFileSync(join(folder, 'open.yaml'), 'public-paths: [1\nport: 2\n')
  spoilDatabases(t, folder)
  const taken = createServer().listen(0, '127.0.0.1')
  await once(taken, 'listening')
  t.teardown(() => taken.close())
  const { port } = taken.address() as { port: number }
  const ok = ['--models-dir', models, '--data-dir', data, '--port', '0']
  const cases: Array<[parameters: string[], code: number, message: RegExp]> = [
    [[...ok, '--port', String(port)], 3, new RegExp(`Port ${port} on 127.0.0.1 is in use; choose another one with --port`)],
    [[...ok, '--host', '203.0.113.1', '--auth', 'jwt'], 3, /This machine has no address 203.0.113.1/],
    [[...ok, '--models-dir', join(folder, 'missing')], 4, /The models folder .*missing cannot be read/],
    [['--models-dir', join(folder, 'file'), '--data-dir', data], 4, /it is not a folder/],
    [['--models-dir', models, '--data-dir', join(folder, 'file', 'data')], 4, /is not writable: .*--data-dir/],
    [[...ok, '--host', '0.0.0.0'], 2, /anyone who can reach 0.0.0.0 can use this server/],
    [[...ok, '--portt', '1'], 2, /There is no option --portt; did you mean --port\?/],
    [[...ok, '--port', 'x'], 2, /Expected a whole number from 0 to 65535 for --port but received "x"/],
    [[...ok, '--auth', 'jwt', '--public-paths', '/api/model'], 2, /"\/api\/model" of --public-paths .*nearest is "\/api\/models"/],
    [[...ok, '--auth', 'jwt', '--jwt-secret', 'short'], 2, /at least 32 bytes/],
    [[...ok, '--tls-cert', 'x'], 2, /both --tls-cert and --tls-key/],
    [[...ok, '--config', join(folder, 'missing.yaml')], 2, /configuration file .* cannot be read/],
    [['--config', join(folder, 'nested.yaml'), '--check-config'], 2, /nested\.yaml cannot be read: .* at line 2, column 7$/m],
    [[...ok, '--config', join(folder, 'open.yaml')], 2, /open\.yaml cannot be read: .* at line 2, column 1$/m],
    [[...ok, '--data-dir', join(folder, 'file')], 4, /file is not writable: .*--data-dir/],
    [[...ok, '--auth-data-dir', join(folder, 'file', 'auth')], 4, /accounts .* cannot be opened: .*--auth-data-dir/],
    [[...ok, '--auth-data-dir', open], 4, /can replace the accounts in .*: chmod o-w/],
    [[...ok, '--auth-data-dir', join(folder, 'newer')], 4, /auth\.db has schema version 1000, .* written by a newer release/],
    [[...ok, '--auth', 'jwt', '--auth-data-dir', join(folder, 'secret')], 4, /jwt-secret can be read by others: chmod 600/],
    [[...ok, '--auth', 'jwt', '--auth-data-dir', join(folder, 'link')], 4, /The secret .*jwt-secret cannot be read: no such file or directory/],
    [[...ok, '--data-dir', join(folder, 'noise')], 4, /jobs\.db cannot be opened: file is not a database\. Restore it from a backup/],
    [[...ok, '--data-dir', join(folder, 'cut')], 4, /jobs\.db cannot be opened: database disk image is malformed\. Restore it/],
    [[...ok, '--data-dir', join(folder, 'busy')], 4, /Another server works on this queue \(.*busy\/jobs\.db\.lock is locked( by process \d+)?\)/],
    [[...ok, '--data-dir', '~ann/data'], 2, /without the home folder of another user .* for --data-dir/],
    [[...ok, '--host', 'http://127.0.0.1'], 2, /without scheme and port \(for example --host 127\.0\.0\.1\) for --host/],
    [[...ok, '--host', '127.0.0.1:9999'], 2, /--host 127\.0\.0\.1 --port 9999/],
    [[...ok, '--host', 'nowhere.invalid', '--auth', 'jwt'], 3, /The host nowhere\.invalid (is not known|cannot be looked up now); .*--host/],
    [[...ok, '--auth', ''], 2, /Expected a value for --auth/],
    [[...ok, '--metrics-listen', `127.0.0.1:${port}`], 3, new RegExp(`Port ${port} on 127.0.0.1 is in use; .*--metrics-listen`)],
    [[...ok, '--metrics-listen', 'http://127.0.0.1:1'], 2, /Expected host:port .* for --metrics-listen/],
    [[...ok, '--tls-cert', join(folder, 'file'), '--tls-key', join(folder, 'file')], 4, /The certificate .* cannot be used with the key/],
    [[...ok, '--jwt-secret-file', join(folder, 'missing'), '--auth', 'jwt'], 4, /The secret .*missing cannot be read/],
    [[...ok, '--pull-tokens-file', join(folder, 'missing')], 4, /--pull-tokens-file cannot be read/],
    [[...ok, '--hf-endpoint', 'hub.lan'], 2, /Expected an https URL .* for --hf-endpoint/],
    [[...ok, '--pull-hosts', 'http://nas'], 2, /for --pull-hosts/],
    [[...ok, '--webhook-hosts', 'http://nas'], 2, /for --webhook-hosts/],
    [[...ok, '--webhook-hosts', 'nas.lan', '--webhook-secret', 'short'], 2, /webhook-secret/],
    [[...ok, '--trust-proxy', 'nonsense'], 2, /--trust-proxy/],
    [[...ok, '--cors-origins', 'ui.example'], 2, /--cors-origins/],
    [[...ok, '--allowed-hosts', 'http://ui.example'], 2, /--allowed-hosts/],
    [[...ok, '--auth', 'pam', '--pam-service-name', 'no-such-service'], 2, /./],
    [['server'], 2, /There is no command "server"/],
    [['user', 'ad'], 2, /There is no command "user ad"; did you mean "user add"\?/]
  ]
  const starts = await runCommandLines(cases.map(([parameters]) => parameters))
  const checked = cases.filter(([parameters]) => parameters[0] === ok[0])
  const checks = await runCommandLines(checked.map(([parameters]) => [...parameters, '--check-config']))
  for (const [index, [parameters, code, message]] of cases.entries()) {
    const { code: actual, stderr } = starts[index]!
    t.equal(actual, code, `${parameters.slice(-2).join(' ')}: ${stderr}`)
    t.match(stderr, message)
    t.equal(stderr.trimEnd().split('\n').length, 1, 'one line')
    const check = checks[checked.indexOf(cases[index]!)]
    if (check !== undefined) t.match(check, { code, stdout: '', stderr }, parameters.slice(-2).join(' '))
  }
  t.equal(checks.length, 40)
  const [parameters, code, message] = cases[0]!
  const { stderr, ...ended } = await runProgram(parameters)
  t.match(ended, { code, signal: null }, 'a process of its own')
  t.match(stderr, message)
  if (process.getuid?.() !== 0) {
    mkdirSync(join(folder, 'locked'), { mode: 0o000 })
    t.match(await runProgram(['--models-dir', join(folder, 'locked'), '--data-dir', data]), { code: 4, stderr: /cannot be read/ })
  }
})

function spoilDatabases (t: Test, folder: string): void {
  for (const name of ['secret', 'link', 'newer', 'noise', 'cut', 'busy']) mkdirSync(join(folder, name), { mode: 0o700 })
  closeDatabase(openDatabase(join(folder, 'newer', 'auth.db'), new Array<string>(1000).fill('')))
  writeFileSync(join(folder, 'secret', 'jwt-secret'), 'a secret that is long enough for all of it', { mode: 0o644 })
  symlinkSync(join(folder, 'nowhere'), join(folder, 'link', 'jwt-secret'))
  writeFileSync(join(folder, 'noise', 'jobs.db'), 'no database '.repeat(1000))
  const cut = join(folder, 'cut', 'jobs.db')
  closeDatabase(openDatabase(cut, [Array.from({ length: 200 }, (_, index) => `CREATE TABLE a${index} (b)`).join(';')]))
  truncateSync(cut, 4096)
  const held = lock(join(folder, 'busy', 'jobs.db.lock'))
  t.teardown(() => held.close())
}

t.test('--check-config makes nothing, and --print-config prints a configuration file', async t => {
  const { folder, models, data } = workspace(t, { models: false })
  const file = join(folder, 'server.yaml')
  writeFileSync(file, `models-dir: [${models}]\nauth: jwt\nport: 1234\npublic-paths: [/api/ready]\n`)
  const secret = 'a secret of more than thirty-two bytes'
  const env = { SDREST_JWT_SECRET: secret, SDREST_MAX_STEPS: '50', SDREST_DATA_DIR: data }

  const printed = await runProgram(['--config', file, '--port', '0', '--print-config'], { env })
  t.equal(printed.code, 0, printed.stderr)
  for (const line of [
    'port: 0 # --port', `auth: jwt # auth in ${file}`, 'max-steps: 50 # SDREST_MAX_STEPS', 'host: 127.0.0.1 # default',
    `models-dir: [ ${models} ] # models-dir in ${file}`, '# jwt-secret: (not shown) # SDREST_JWT_SECRET', '# tls-cert:'
  ]) t.ok(printed.stdout.split('\n').includes(line), line)
  t.notMatch(printed.stdout, secret)
  const again = join(folder, 'again.yaml')
  writeFileSync(again, printed.stdout)
  const values = (text: string) => text.replaceAll(/ # .*$/gm, '')
  const reprinted = await runProgram(['--print-config', '--config', again])
  t.equal(values(reprinted.stdout).replace('# jwt-secret:', ''), values(printed.stdout).replace('# jwt-secret: (not shown)', ''), 'what is printed is a configuration file')

  const good = await runProgram(['--check-config', '--config', file, '--engine', 'portable'], { env })
  t.match(good, { code: 0, stdout: /^The configuration is good\. 127\.0\.0\.1:1234, --auth jwt, public: GET \/api\/health, GET \/api\/ready, GET \/api\/status,/ }, good.stderr)
  t.notOk(existsSync(data), 'nothing was made')
  const mistakes: Array<[parameters: string[], code: number, message: RegExp]> = [
    [['--public-paths', '/api/modelz'], 2, /nearest is "\/api\/models"/],
    [['--models-dir', join(folder, 'missing')], 4, /missing cannot be read/],
    [['--tls-cert', file, '--tls-key', file], 4, /The certificate .*server.yaml cannot be used with the key/],
    [['--jwt-secret', 'short'], 2, /32 bytes/],
    [['--auth', 'none', '--host', '0.0.0.0'], 2, /anyone who can reach/],
    [['--metrics-listen', '9464'], 2, /Expected host:port/],
    [['--print-config'], 2, /Expected --check-config or --print-config, not both/]
  ]
  const results = await runCommandLines(mistakes.map(([parameters]) => ['--check-config', '--config', file, '--engine', 'portable', ...parameters]))
  for (const [index, [, code, message]] of mistakes.entries()) {
    t.equal(results[index]!.code, code, results[index]!.stderr)
    t.match(results[index]!.stderr, message)
  }
})

t.test('a folder that cannot be made is named at once', async t => {
  const { folder, models } = workspace(t, { models: false })
  symlinkSync(join(folder, 'nowhere'), join(folder, 'link'))
  const dangling = /link is a symbolic link to .*nowhere, which is missing.*--data-dir/
  const cases: Array<[string, RegExp]> = [[join(folder, 'link'), dangling], [join(folder, 'link', 'data'), dangling]]
  // Where its owner is let in, but no folder can be made.
  if (existsSync('/proc/self')) cases.push(['/proc/sdrest/data', /\/proc\/sdrest.*--data-dir/])
  const options = (data: string) => ['--models-dir', models, '--data-dir', data, '--port', '0', '--engine', 'portable']
  const results = await runCommandLines(cases.flatMap(([data]) => [options(data), ['doctor', ...options(data)], ['user', 'list', '--data-dir', data]]))
  for (const [index, [, message]] of cases.entries()) {
    const [started, doctor, list] = results.slice(3 * index)
    t.match(started, { code: 4, stderr: message })
    t.equal(started!.stderr.trimEnd().split('\n').length, 1, 'one line')
    t.equal(doctor!.code, 1)
    t.match(doctor!.stdout.split('\n').find(line => line.includes('data folder')), message)
    t.match(doctor!.stdout, /^FAIL {2}accounts .* cannot be made/m)
    t.match(list, { code: 4, stderr: /accounts .* cannot be opened/ })
  }
  t.same(readdirSync(folder).sort(), ['link', 'models'], 'nothing was made')
})

t.test('help lists options and commands, doctor finds problems, openapi prints the document', async t => {
  const { models, data } = workspace(t)
  const help = await runProgram(['--help', 'all'])
  for (const word of ['Server:', 'Authentication:', 'Models:', 'Engine:', 'Jobs:', 'Data:', '--models-dir', '--public-paths', 'serve', 'demo', 'doctor', 'user', 'key']) {
    t.match(help.stdout, word)
  }
  const doctor = (folder: string) => ['doctor', '--models-dir', folder, '--data-dir', data, '--port', '0', '--engine', 'portable']
  const [well, ill, openapi] = await runCommandLines([
    doctor(models), doctor(join(models, 'missing')), ['openapi', '--engine', 'portable', '--auth', 'jwt', '--models-dir', models]
  ]) as [CommandResult, CommandResult, CommandResult]
  t.equal(well.code, 0, well.stdout)
  t.match(well.stdout, /^ok {4}node/m)
  t.match(well.stdout, /^ok {4}engine .*portable/m)
  t.match(well.stdout, /^ok {4}models .*1 checkpoint/m)
  t.match(well.stdout, /system logins/)
  t.equal(ill.code, 1)
  t.match(ill.stdout, /^FAIL {2}models .*cannot be read/m)

  t.match(JSON.parse(openapi.stdout), { openapi: '3.1.0', paths: { '/api/health': Object, '/api/generate/txt2img': Object } })
})

t.test('the demo draws and leaves nothing but the picture', async t => {
  const folder = t.testdir({ temporary: {}, pictures: {} })
  const temporary = join(folder, 'temporary')
  const pictureBefore = ownPicture()
  const output = join(folder, 'pictures', 'fox.png')
  const { code, stdout, stderr } = await runProgram(['demo', '--output=~/fox.png'], {
    env: { SDREST_AUTH: 'none', TMPDIR: temporary, HOME: join(folder, 'pictures') }
  })
  t.equal(code, 0, stderr)
  t.notMatch(stderr, /database/, 'what its own commands note is nothing to its user')
  t.match(stdout, new RegExp(`picture +${output}`))
  t.match(stdout, /GET \/api\/health → 200/)
  t.match(stdout, /GET \/api\/models → 401 without a token/)
  t.match(stdout, /curl -s/)
  t.same(readFileSync(output).subarray(1, 4).toString(), 'PNG')
  t.same(readdirSync(join(folder, 'pictures')), ['fox.png'])
  t.same(readdirSync(temporary), [])
  t.equal(ownPicture(), pictureBefore)

  for (const [wrong, exitCode, message] of [
    [join(folder, 'missing', 'fox.png'), 4, /^stable-diffusion-rest: There is no folder /],
    [folder, 4, /^stable-diffusion-rest: The image cannot be saved: .* is a folder\n$/],
    ['~ann/fox.png', 2, /without the home folder of another user .* for --output/]
  ] as const) {
    t.match(await runProgram(['demo', '--output', wrong]), { code: exitCode, stdout: '', stderr: message }, 'before anything is drawn')
  }
})

/** When the picture that `npm run demo` leaves here was written, if it was: the README runs it before the tests. */
function ownPicture (): number | undefined {
  return statSync('stable-diffusion-rest-demo.png', { throwIfNoEntry: false })?.mtimeMs
}

t.test('an output that is closed early or cannot be written ends a command cleanly', { skip: process.platform === 'win32' && 'pipes are other things there' }, async t => {
  const { folder, models, data } = workspace(t, { models: false })
  const temporary = join(folder, 'temporary')
  mkdirSync(temporary)
  const run = async (parameters: string[], output: 'pipe' | number) => {
    const child = spawn(process.execPath, [program, ...parameters], {
      stdio: ['ignore', output, 'pipe'], env: { ...environment, TMPDIR: temporary }, timeout: 60_000
    })
    child.stdout?.destroy()
    let stderr = ''
    child.stderr!.setEncoding('utf8').on('data', (text: string) => { stderr += text })
    const [code] = await once(child, 'close') as [number | null]
    return { code, stderr }
  }
  const folders = ['--models-dir', models, '--data-dir', data]
  t.equal((await runProgram(['user', 'add', 'ann', '--password-stdin', '--data-dir', data], { input: 'a long password' })).code, 0)
  for (const parameters of [['doctor', '--port', '0', ...folders], ['user', 'list', '--data-dir', data], ['--print-config'], ['openapi']]) {
    t.strictSame(await run(parameters, 'pipe'), { code: 141, stderr: '' }, String(parameters[0]))
  }
  t.match(await run(['--help'], 'pipe'), { stderr: '' })
  t.strictSame(readdirSync(temporary), [], 'what a command makes for itself is cleared away')

  if (!existsSync('/dev/full')) return
  const full = openSync('/dev/full', 'w')
  t.teardown(() => closeSync(full))
  t.match(await run(['user', 'list', '--data-dir', data], full), { code: 4, stderr: /^stable-diffusion-rest: .* cannot be printed: .*ENOSPC.*\n$/ })
})
