/** The images of each job, with seeds that go on from one to the next. */
export function batchesOf (images: number, most: number, seed = -1): Array<{ batch_count: number, seed?: number }> {
  const batches = []
  for (let made = 0; made < images; made += most) {
    batches.push({
      batch_count: Math.min(most, images - made),
      ...(seed >= 0 && { seed: seed + made })
    })
  }
  return batches
}
