use dllm_fast::logits::{arith::*,kernel::*};
use std::time::Instant;
fn main(){
    let v=126464; let mut st=12345u64;
    let mut nxt=||{ st^=st<<13; st^=st>>7; st^=st<<17; (st>>40) as f32/16777216.0 };
    let x:Vec<f32>=(0..v*32).map(|_|{ let u:f32=(0..6).map(|_|nxt()).sum::<f32>()-3.0; u*4.2 }).collect();
    for &isa in Isa::available(){
        let reps = if isa==Isa::Portable {1} else {20};
        for (name,f) in [("top",0),("sums",1),("weights",2)] {
            let mut best=f64::MAX; let mut out=vec![0f32;TILE];
            for _ in 0..reps { let t=Instant::now(); let mut acc=0f32;
                for r in x.chunks(v).take(if isa==Isa::Portable{2}else{32}) { for tile in r.chunks(TILE) { match f {0=>acc+=top_two(isa,tile).second,1=>{let s=sums(isa,tile,9.0,1.0);acc+=s.mass+s.moment},_=>{weights(isa,tile,9.0,1.0,&mut out);acc+=out[3]}} } }
                std::hint::black_box(acc); best=best.min(t.elapsed().as_secs_f64()*1e3); }
            println!("{isa:?} {name} {best:.3} ms");
        }
    }
    let _=LANES;
}
