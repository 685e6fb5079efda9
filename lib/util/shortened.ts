/**
 * The first code units and "…" of a longer text, never half of a character: not every client could read that as JSON.
 * @param longest in code units
 */
export function shortened (text: string, longest = 80): string {
  return text.length > longest ? `${text.slice(0, longest).replace(/[\ud800-\udbff]$/, '')}…` : text
}
