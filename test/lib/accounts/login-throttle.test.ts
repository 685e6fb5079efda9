import t from 'tap'
import { LoginThrottle } from '../../../lib/accounts/login-throttle.ts'
import { MemoryFailures } from '../../../lib/accounts/store/memory-failures.ts'

/** Each /64 of one /48, and of one /56 of it; neighbours in the count have no /56 in common, or the same one. */
const inWidest = (count: number) => `2001:db8:1:${(count * 257 % 65_536).toString(16)}::1`
const inWider = (count: number) => `2001:db8:1:${(count % 256).toString(16)}::1`

/** What one customer may have, and how many guesses from there may be looked at in an hour. */
const attackers: Record<string, { addresses: Array<(count: number) => string>, most: number }> = {
  'a /48': { addresses: [inWidest], most: 136 },
  'a /56': { addresses: [inWider], most: 76 },
  'a /48 and an IPv4 address': { addresses: [inWidest, () => '192.0.2.1'], most: 206 },
  'an IPv4 address': { addresses: [() => '192.0.2.1'], most: 70 }
}

const hour = 3_600_000
const never = () => false

for (const [name, { addresses, most }] of Object.entries(attackers)) {
  // Most people come after the first rush of guesses, when the account has counted most.
  for (const [rest, first] of [[0, 0], [0, 31_500], [420_000, 31_500], [1_200_000, 31_500]] as const) {
    const times = `rests of ${rest / 1000} s, a person after ${first / 1000} s`
    t.test(`one customer with ${name} does not close an account: ${times}`, async t => {
      let [now, looked, count, tries, refused] = [0, 0, 0, 0, 0]
      const throttle = new LoginThrottle(new MemoryFailures(() => now))
      for (; now < hour; now += 500) {
        // It guesses as fast as it may for five minutes, and then lets its meters forgive.
        if (rest === 0 || now % (300_000 + rest) < 300_000) {
          for (const address of addresses) while (await throttle.attempt('root', address(count++), never) === 0 && looked <= 10_000) looked++
        }
        // Every minute, at another second each time, another address mistypes four times and then knows the password.
        if (now < first || (now - first) % 60_500 !== 0) continue
        const address = `198.51.100.${tries++}`
        for (let typed = 0; typed < 5; typed++) if (await throttle.attempt('root', address, never) > 0) refused++
        // Its failures are not what is measured here; those of one person do not come every minute.
        for (let typed = 0; typed < 5; typed++) await throttle.takeBack('root', address)
      }
      t.equal(refused, 0, `${tries} people get through`)
      t.ok(looked >= most / 4 && looked <= most, `${looked} guesses are looked at in an hour`)
    })
  }
}

t.test('one customer with a /48 that guesses at many accounts', async t => {
  let [now, looked, count] = [0, 0, 0]
  const throttle = new LoginThrottle(new MemoryFailures(() => now))
  for (; now < hour; now += 500) {
    while (await throttle.attempt(`user${count}`, inWidest(count++), never) === 0 && looked <= 326) looked++
  }
  t.ok(looked > 80 && looked <= 326, `${looked} guesses are looked at in an hour`)
})

t.test('a neighbour in the same /48 holds up strangers there, not an address that the account knows', async t => {
  const throttle = new LoginThrottle(new MemoryFailures(() => 0))
  let guesses = 0
  while (await throttle.attempt('root', inWider(guesses), never) === 0 && guesses <= 100) guesses++
  t.equal(guesses, 7, 'those of one /56')
  t.ok(await throttle.attempt('root', '2001:db8:1:99::1', never) > 0)
  t.equal(await throttle.attempt('root', '2001:db8:1:99::1', () => true), 0)
  t.equal(await throttle.attempt('root', '2001:db8:1:9900::1', never), 0, 'the rest of the /48 has some tries left')
  t.equal(await throttle.attempt('root', '2001:db8:2::1', never), 0, 'another /48 has all')
})

t.test('a right password is no failure of any network', async t => {
  const throttle = new LoginThrottle(new MemoryFailures(() => 0))
  for (let count = 0; count < 200; count++) {
    t.equal(await throttle.attempt('root', inWidest(count), never), 0)
    await throttle.succeed('root', inWidest(count))
  }
})
