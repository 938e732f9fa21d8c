"""AdamW8bit of bitsandbytes on the CPU, recorded: python make.py updates.safetensors"""
import sys, torch
import bitsandbytes as bnb
from safetensors.torch import save_file
torch.set_num_threads(1)
g=torch.Generator().manual_seed(7007)
N,STEPS=700,6
p=torch.nn.Parameter(torch.randn(N,generator=g)*0.02)
opt=bnb.optim.AdamW8bit([p],lr=1e-2,betas=(0.9,0.999),eps=1e-8,weight_decay=0.1,min_8bit_size=1)
out={"initial":p.data.clone()}
grads=[];vals=[]
for s in range(STEPS):
    gr=torch.randn(N,generator=g)*torch.logspace(-6,0,N)*(0.5+s)
    gr[256:300]=0
    if s<3: gr[512:]=0     # a block whose moments stay zero for a while
    p.grad=gr.clone(); opt.step()
    grads.append(gr); vals.append(p.data.clone())
st=opt.state[p]
print({k:(v.dtype,v.shape) if torch.is_tensor(v) else v for k,v in st.items()})
out.update(gradients=torch.stack(grads),values=torch.stack(vals),first_codes=st["state1"],second_codes=st["state2"],first_scales=st["absmax1"],second_scales=st["absmax2"],signed=st["qmap1"],unsigned=st["qmap2"])
save_file({k:v.detach().contiguous() for k,v in out.items()}, sys.argv[1])
