import { closest, distance } from 'fastest-levenshtein'

/** The candidate that `word` was probably meant to be, or undefined when none is close enough to be worth saying. */
export function nearest (word: string, candidates: readonly string[]): string | undefined {
  if (candidates.length === 0) return undefined
  const found = closest(word, candidates)
  return distance(word, found) <= Math.max(2, Math.ceil(word.length / 3)) ? found : undefined
}
