import { randomBytes } from 'node:crypto'
import { spawnSync } from 'node:child_process'
import { rmSync } from 'node:fs'
import t from 'tap'
import { runPage } from './docs-commands.ts'
import { makeAccount, noPam, noRoot, without } from './fixtures/pam/system.ts'

/** A network of its own, so that nobody's firewall changes. */
const ownNetwork = `unshare ${process.getuid?.() === 0 ? '-n' : '-rn'}`
const nft = `PATH=$PATH:/usr/sbin
if [ "$1" = -f ]; then cp "$2" rules; exec ${ownNetwork} /usr/sbin/nft -f "$2"; fi
exec ${ownNetwork} sh -c '/usr/sbin/nft -f rules && exec /usr/sbin/nft "$@"' nft "$@"`
const noFirewall = without('nft and unshare (Debian: nftables, util-linux)', spawnSync('sh', ['-c', `${ownNetwork} /usr/sbin/nft list ruleset`]).status === 0)
const noTools = without('curl, jq and openssl', ['curl', 'jq', 'openssl'].every(tool => spawnSync('sh', ['-c', `command -v ${tool}`]).status === 0))

t.test('docs/authentication.md', { skip: noTools }, async t => {
  const noSystem = noPam || noRoot
  const service = `sdrest-${randomBytes(4).toString('hex')}`
  const { name, password } = noSystem ? { name: '', password: '' } : makeAccount(t)
  t.teardown(() => rmSync(`/etc/pam.d/${service}`, { force: true }))
  await runPage(t, 'docs/authentication.md', {
    replace: {
      'the password of carol': password,
      carol: name,
      '/etc/pam.d/stable-diffusion-rest': `/etc/pam.d/${service}`,
      '--pam-service-name stable-diffusion-rest': `--pam-service-name ${service}`
    },
    programs: { nft, systemctl: '[ "$*" = "kill --signal HUP stable-diffusion-rest" ] && kill -HUP $SERVER_PID' },
    skip: { Firewall: noFirewall, 'System accounts: unix': noSystem, 'System accounts: pam': noSystem }
  })
})
