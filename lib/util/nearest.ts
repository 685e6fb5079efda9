import { closest, distance } from 'fastest-levenshtein'

/** Characters. The time grows with the length of the word times that of all candidates, and callers choose the word. */
const longest = 128

/** Characters that a word and a candidate must share at their beginning when the rest differs: `sampler_name`. */
const shortestStem = 4

/** The candidate that `word` was probably meant to be, or undefined when none is close enough to be worth saying. */
export function nearest (word: string, candidates: readonly string[]): string | undefined {
  if (word.length > longest) return undefined
  const short = candidates.filter(candidate => candidate.length <= longest)
  if (short.length === 0) return undefined
  const found = closest(word, short)
  if (distance(word, found) <= Math.max(2, Math.ceil(word.length / 3))) return found
  return short.find(candidate => candidate.length >= shortestStem && word.startsWith(candidate))
}
