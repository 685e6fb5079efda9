import t from 'tap'
import { runCommandLines } from '../server-process.ts'

/** Every command with arguments that would do, and an option that it has. */
const commands: Array<[line: string[], option: string]> = [
  [[], 'port'], [['serve'], 'models-dir'], [['demo'], 'output'], [['generate', 'a fox'], 'steps'], [['doctor'], 'device'],
  [['health'], 'port'], [['audit'], 'lines'], [['openapi'], 'auth'],
  [['user', 'add', 'ann'], 'role'], [['user', 'list'], 'data-dir'], [['user', 'passwd', 'ann'], 'password-stdin'],
  [['user', 'role', 'ann', 'admin'], 'data-dir'], [['user', 'disable', 'ann'], 'data-dir'],
  [['user', 'enable', 'ann'], 'auth-data-dir'], [['user', 'remove', 'ann'], 'data-dir'],
  [['key', 'create', '--user', 'ann'], 'expires'], [['key', 'list'], 'user'], [['key', 'revoke', 'x'], 'data-dir'],
  [['models', 'list'], 'json'], [['models', 'pull', 'hf:a/b/c'], 'sha256'], [['models', 'hash', 'x'], 'models-dir'],
  [['models', 'convert', 'x', '--weight-type', 'f16'], 'overwrite'], [['models', 'remove', 'x'], 'models-dir']
]

t.test('every command refuses a misspelt option and names the one that was meant', async t => {
  const lines = commands.flatMap(([line, option]) => [
    [...line, `--${option}x`, '1'], [...line, `--${option.slice(0, -1)}`], [...line, `--${option}x=1`, '--help-me'],
    [...line, '--qqqqqqqqqqqq']
  ])
  const results = await runCommandLines(lines)
  for (const [index, { code, stdout, stderr }] of results.entries()) {
    const [, option] = commands[Math.floor(index / 4)]!
    const words = lines[index]!.join(' ')
    t.match({ code, stdout }, { code: 2, stdout: '' }, `${words}: ${stderr}`)
    t.match(stderr, index % 4 === 3
      ? 'stable-diffusion-rest: There is no option --qqqqqqqqqqqq\n'
      : new RegExp(`^stable-diffusion-rest: There is no option --${option.slice(0, -1)}\\w*; did you mean --${option}\\?\n$`), words)
  }
})

t.test('what else is typed wrongly is one line that says what to type', async t => {
  const cases: Array<[line: string, message: string | RegExp]> = [
    ['generate', 'Put the prompt in quotes: stable-diffusion-rest generate "a red fox"'],
    ['generate red fox', 'Put the prompt in quotes: stable-diffusion-rest generate "a red fox"'],
    ['generate red fox --steps 3', 'Put the prompt in quotes: stable-diffusion-rest generate "a red fox"'],
    ['generate x --lora ink', 'A LoRA is part of the prompt: generate "a red fox <lora:NAME:0.8>"'],
    ['generate x --loras ink', 'A LoRA is part of the prompt: generate "a red fox <lora:NAME:0.8>"'],
    ['generate x --token a --token-file b', 'Expected --token or --token-file, not both'],
    ['--check-config --print-config', 'Expected --check-config or --print-config, not both'],
    ['serv', 'There is no command "serv"; did you mean "serve"?'],
    ['usr list', 'There is no command "usr"; did you mean "user"?'],
    ['frobnicate', /^There is no command "frobnicate"; there are serve, demo, generate, /],
    ['user ad ann', 'There is no command "user ad"; did you mean "user add"?'],
    ['models pul x', 'There is no command "models pul"; did you mean "models pull"?'],
    ['key frobnicate', 'There is no command "key frobnicate"; there are create, list, revoke'],
    ['user', 'Say what to do: user add, list, passwd, role, disable, enable or remove'],
    ['user add', 'Expected stable-diffusion-rest user add <name>'],
    ['user role ann', 'Expected stable-diffusion-rest user role <name> <role>'],
    ['user role ann boss', 'Expected one of admin, user for role but received "boss"'],
    ['user add ann --role boss', 'Expected one of admin, user for --role but received "boss"'],
    ['user add ann bob', '"bob" is one word too many. Expected stable-diffusion-rest user add <name>'],
    ['user list ann', '"ann" is one word too many. Expected stable-diffusion-rest user list'],
    ['demo now', '"now" is one word too many. Expected stable-diffusion-rest demo'],
    ['key create', 'Expected --user'],
    ['models pull', 'Expected stable-diffusion-rest models pull <source>'],
    ['models list --type picture', /^Expected one of checkpoint, .* for --type but received "picture"/],
    ...['--models-dir --port 1', 'serve --models-dir', 'doctor --models-dir --port 1', 'models list --models-dir --json']
      .map((line): [string, string] => [line, 'Expected a value after --models-dir but received none (a variable that is not set?)']),
    ['generate x --steps --seed 1', 'Expected a value after --steps but received none (a variable that is not set?)'],
    ['user add ann --data-dir', 'Expected a value after --data-dir but received none (a variable that is not set?)']
  ]
  const results = await runCommandLines(cases.map(([line]) => line.split(' ')))
  for (const [index, [line, message]] of cases.entries()) {
    const { code, stdout, stderr } = results[index]!
    t.match({ code, stdout }, { code: 2, stdout: '' }, `${line}: ${stderr}`)
    const [, said] = /^stable-diffusion-rest: (.*?)(?:\.? Try --help\.)?\n$/.exec(stderr) ?? []
    if (typeof message === 'string') t.equal(said, message, line)
    else t.match(said, message, line)
  }
})
