import t from 'tap'
import { UploadLimit } from '../../../lib/http/upload-limit.ts'

t.test('callers with most of the room make some for one that has none', async t => {
  const room = new UploadLimit({ bytes: 100, bytesForOne: 60, grace: 0 })
  const ended: string[] = []
  const giveUp = (name: string, isUnderWay = true) => () => {
    if (isUnderWay) ended.push(name)
    return isUnderWay
  }
  await room.enter('alice', 20, giveUp('alice 1', false))
  await room.enter('alice', 20, giveUp('alice 2'))
  const leave = await room.enter('alice', 20, giveUp('alice 3'))
  await room.enter('bob', 40, giveUp('bob 1'))
  await t.rejects(room.enter('alice', 20, giveUp('alice 4')), { code: 'SDR_RATE_LIMITED' })
  await t.rejects(room.enter('bob', 20, giveUp('bob 2')), { code: 'SDR_UNAVAILABLE' })
  t.same(ended, [])

  await room.enter('carol', 30, giveUp('carol 1'))
  t.same(ended, ['alice 2', 'alice 3'], 'the oldest whose body is under way, of the caller with most at the time')
  leave()
  leave()
  await room.enter('dan', 50, giveUp('dan 1'))
  t.same(ended, ['alice 2', 'alice 3', 'bob 1'], 'what was given back is there once')
  await t.rejects(room.enter('dan', 1, giveUp('dan 2')), { code: 'SDR_UNAVAILABLE' })
})

t.test('but not before they had some time', async t => {
  const room = new UploadLimit({ bytes: 100, bytesForOne: 100 })
  await room.enter('alice', 100, () => t.fail('a body that has just begun'))
  await t.rejects(room.enter('bob', 10, () => true), { code: 'SDR_UNAVAILABLE' })
})
