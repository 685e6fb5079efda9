/** Milliseconds that a client may take for one event. */
const longestStall = 60_000

/** Waits until a client has taken an event; one that takes nothing for long is cut off. */
export async function taken (reply: { raw: { destroy: () => unknown } }, sent: Promise<void>): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => {
      reply.raw.destroy()
      resolve() // an event that will not be sent any more is never told to have failed
    }, longestStall).unref()
    sent.then(resolve, reject).finally(() => clearTimeout(timer))
  })
}
