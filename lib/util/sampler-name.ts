/**
 * A sampler's name without what programs write differently: `DPM++ 2M`, `dpmpp_2m` and `k_dpmpp_2m` become one.
 * @param name of at most 64 characters; of a longer one only these count
 */
export function plainSampler (name: string): string {
  return name.slice(0, 64).toLowerCase().replace(/^k_/, '').replace('pp', '++').replace('ancestral', 'a')
    .replaceAll(/[\s_-]/g, '')
}
